"""How much a model knows of documents that it was to forget: against one that never read them, and against text nobody read.

Formulas as in TOFU (Maini et al. 2024, arXiv 2401.06121) and MUSE (Shi et al. 2024, arXiv 2407.06460), over the mean losses of
documents.
"""

import math
from collections.abc import Iterable
from typing import TypedDict

import numpy as np

EXACT = 1000
"""Losses of two samples, together, up to which their distance's p-value is exact; float64 cannot count the paths of more."""


class Forgotten(TypedDict):
    """What a version knows of a forgotten source; what there is nothing to compare with is None.

    Attributes:
        loss: Mean over its training documents of their mean losses, nats per token; None also if one of them is not finite.
        heldout_loss: The same of its held-out documents, which no version read.
        ks_p: `ks_p_value` of the training documents' losses against those of the exact reference.
        auc: `membership_auc` of training against held-out documents.
        priv_leak: `priv_leak` against that of the exact reference.
        utility: `utility` of the other sources that it learned.
    """

    loss: float | None
    heldout_loss: float | None
    ks_p: float | None
    auc: float | None
    priv_leak: float | None
    utility: float | None


def ks_p_value(left: np.ndarray, right: np.ndarray) -> float:
    """The p-value of the Kolmogorov-Smirnov test that two samples are of one distribution: TOFU's forget quality.

    Exact up to `EXACT` losses in all; beyond, the asymptotic distribution, with the correction for small samples of Stephens
    (1970): 2 sum (-1)^(k-1) exp(-2 k^2 x^2).

    Args:
        left: float [n], at least one; inf is above all others.
        right: float [m], at least one.
    """
    values = np.sort(np.concatenate([left, right]))
    below = [np.searchsorted(np.sort(sample), values, side="right") for sample in (left, right)]
    apart = int(np.abs(below[0] * len(right) - below[1] * len(left)).max())
    if len(left) + len(right) <= EXACT:
        return _exact_p_value(len(left), len(right), apart)
    distance = apart / (len(left) * len(right))
    root = math.sqrt(len(left) * len(right) / (len(left) + len(right)))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:  # where the series converges slowly, and its sum is 1 to ten digits
        return 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)]
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def _exact_p_value(n: int, m: int, apart: int) -> float:
    """The chance that two samples of one continuous distribution are so far apart, or farther.

    All orders of their values are equally likely. Each is a path of steps to the right or up from (0, 0) to (n, m), and its
    distance the largest |i/n - j/m| on it. Those that reach the distance are counted, a column at a time (Hodges 1958).

    Args:
        n: Values of one sample.
        m: Of the other one; n + m at most `EXACT`.
        apart: The distance, times n m.
    """
    if apart == 0:
        return 1.0
    places = np.arange(m + 1)
    below, reached = (
        np.zeros(m + 1),
        np.zeros(m + 1),
    )  # paths to each place of a column that have not, and that have
    below[0] = 1
    for column in range(n + 1):
        inside = np.abs(column * m - places * n) < apart
        before, below = below, np.cumsum(below * inside) * inside
        arriving = before + np.concatenate([[0], below[:-1]])
        reached = np.cumsum(reached + arriving * ~inside)
    return min(1.0, float(reached[-1]) / math.comb(n + m, n))


def membership_auc(members: np.ndarray, others: np.ndarray) -> float:
    """The chance that a document that was read has a lower loss than one that was not: the area under the curve of an attack
    by loss (Yeom et al. 2018, arXiv 1709.01604). 0.5 tells nothing apart; equal losses count half.

    Args:
        members: float [n], at least one, losses of documents that were read.
        others: float [m], at least one.
    """
    ordered = np.sort(others)
    above = len(others) - np.searchsorted(ordered, members, side="right")
    equal = len(others) - above - np.searchsorted(ordered, members, side="left")
    return float((above + equal / 2).mean() / len(others))


def priv_leak(auc: float, exact: float) -> float | None:
    """MUSE's PrivLeak in percent, ((1 - auc) - (1 - exact)) / (1 - exact): 0 is as the exact reference, below 0 the documents
    are still known, above 0 they are too unlikely; None if the reference tells all apart."""
    return None if exact >= 1 else ((1 - auc) - (1 - exact)) / (1 - exact) * 100


def utility(losses: Iterable[float]) -> float | None:
    """The harmonic mean over domains of the mean probability of a token, exp(-loss): TOFU's model utility, of what each source
    measures. One that is lost makes it 0, however good the others are; None without a domain."""
    return harmonic_mean([math.exp(-loss) for loss in losses])


def harmonic_mean(values: list[float]) -> float | None:
    """The harmonic mean, 0 if a value is 0; None of none."""
    if not values:
        return None
    return len(values) / math.fsum(1 / value for value in values) if all(values) else 0.0


def forgotten(
    trained: np.ndarray,
    heldout: np.ndarray | None,
    retained: Iterable[float],
    exact: tuple[np.ndarray, np.ndarray | None] | None,
) -> Forgotten:
    """What a version knows of a forgotten source.

    Args:
        trained: float [documents], the version's mean losses of the source's training documents, in nats per token; inf if
            the model gives none. There may be none of them.
        heldout: The same of its held-out documents; None if they were not measured.
        retained: The version's held-out losses of the sources that it learned and is to keep.
        exact: `trained` and `heldout` of the exact reference; None if there is none.
    """
    auc, against = _auc(trained, heldout), None if exact is None else _auc(*exact)
    return {
        "loss": _mean(trained),
        "heldout_loss": _mean(heldout),
        "ks_p": ks_p_value(trained, exact[0])
        if exact is not None and len(trained) and len(exact[0])
        else None,
        "auc": auc,
        "priv_leak": None if auc is None or against is None else priv_leak(auc, against),
        "utility": utility(retained),
    }


def _auc(members: np.ndarray, others: np.ndarray | None) -> float | None:
    return membership_auc(members, others) if others is not None and len(members) and len(others) else None


def _mean(losses: np.ndarray | None) -> float | None:
    return float(losses.mean()) if losses is not None and len(losses) and np.isfinite(losses).all() else None
