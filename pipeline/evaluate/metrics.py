"""Continual-learning metrics over a loss matrix: what a lineage of versions learned, kept and forgot.

A recipe's versions form a tree (an update beside its control), so every metric belongs to one version and looks at
its *path*: the initial model, then each ancestor from the root down to the version itself. `losses` holds one row
per model on the path: row 0 is the initial model, row T the version; columns are domains; NaN is "not measured".

Domains join a path at different times. `learned[i]` says when domain i did, see `learned_at`: the row of the first
version that trained on it as new data, 0 if the initial model already knew it, None if it takes no part. With one
new domain per version the formulas below are the published ones; with several, each domain is one term.

Accuracies of the literature become A := -loss, so larger is better; values are in the losses' unit. A term
that needs an unmeasured loss is left out; a metric without any term is NaN.
"""

from collections.abc import Collection, Sequence

import numpy as np


def learned_at(
    domains: Sequence[str], new: Sequence[Sequence[str]], known: Collection[str]
) -> list[int | None]:
    """When each domain joined a path.

    Args:
        domains: The matrix's columns.
        new: Per version on the path, in order, the sources that it trains on as new data; replay is not new.
        known: What the initial model is taken to know. Of a pretrained model, the domains that no version brings in that
            descends from this one: what is new there is no part of this path yet. Random weights know none.

    Returns:
        Per domain the row of the version that introduced it (1 is the root), 0 for known from the start, None for
        a domain that takes no part.
    """
    return [
        next(
            (row for row, sources in enumerate(new, start=1) if domain in sources),
            0 if domain in known else None,
        )
        for domain in domains
    ]


def average_accuracy(losses: np.ndarray, learned: Sequence[int | None]) -> float:
    """ACC = 1/T sum_i A_{T,i}: the version's macro-average over the domains that take part.

    Source: Lopez-Paz and Ranzato 2017 (GEM, arXiv 1706.08840), equation 2.
    """
    return _mean(accuracy_terms(losses, learned))


def accuracy_terms(losses: np.ndarray, learned: Sequence[int | None]) -> list[np.ndarray]:
    """The terms of ACC, one per domain; arrays over resamples if `losses` has a third axis."""
    return [-losses[-1, i] for i, row in enumerate(learned) if row is not None]


def backward_transfer(losses: np.ndarray, learned: Sequence[int | None]) -> float:
    """BWT = 1/(T-1) sum_{i<T} (A_{T,i} - A_{i,i}): change on each earlier domain since it was learned.

    Negative is forgetting. Source: Lopez-Paz and Ranzato 2017 (GEM, arXiv 1706.08840), equation 3.
    """
    return _mean(backward_terms(losses, learned))


def backward_terms(losses: np.ndarray, learned: Sequence[int | None]) -> list[np.ndarray]:
    """The terms of BWT, one per domain."""
    last = len(losses) - 1
    return [
        losses[row, i] - losses[last, i] for i, row in enumerate(learned) if row is not None and row < last
    ]


def trace_backward_transfer(losses: np.ndarray, learned: Sequence[int | None]) -> float:
    """TRACE's BWT = 1/T sum_{i<=T} (A_{T,i} - A_{i,i}): GEM's sum, divided by the number of all domains learned so far.

    Those that the version itself brought in add nothing to the sum, and count. TRACE's OP is `average_accuracy`.

    Source: Wang et al. 2023 (TRACE, arXiv 2310.06762), and its code.
    """
    terms, last = backward_terms(losses, learned), len(losses) - 1
    own = sum(row == last and not np.isnan(losses[last, i]) for i, row in enumerate(learned))
    return _mean([*terms, *[0.0] * own]) if terms else float("nan")


def general_change(losses: np.ndarray, learned: Sequence[int | None]) -> float:
    """TRACE's general-ability delta: mean of A_{T,i} - A_{0,i} over what the initial model knew; negative is a loss of it.

    Source: Wang et al. 2023 (TRACE, arXiv 2310.06762).
    """
    return _mean([losses[0, i] - losses[-1, i] for i, row in enumerate(learned) if row == 0])


def forward_transfer(losses: np.ndarray, learned: Sequence[int | None]) -> float:
    """FWT = 1/(T-1) sum_{i=2}^{T-1} (A_{T,i} - b_i): what the last version holds of the domains in between.

    b is the initial model. The published sum has T-2 terms over the divisor T-1: the last version's own domains
    count in the divisor alone. NaN without a domain in between. `gem_forward_transfer` is the older measure.

    Source: the continual-learning tutorial's definition, kept as published.
    """
    measured = [term for term in forward_terms(losses, learned) if not np.isnan(term)]
    if not measured:
        return float("nan")
    return float(sum(measured) / (len(measured) + uncounted_domains(losses, learned)))


def forward_terms(losses: np.ndarray, learned: Sequence[int | None]) -> list[np.ndarray]:
    """The terms of FWT, one per domain."""
    last = len(losses) - 1
    return [
        losses[0, i] - losses[last, i] for i, row in enumerate(learned) if row is not None and 2 <= row < last
    ]


def uncounted_domains(losses: np.ndarray, learned: Sequence[int | None]) -> int:
    """Number of domains in FWT's divisor without a term: the last version's own."""
    return sum(row is not None and 2 <= row == len(losses) - 1 for row in learned)


def gem_forward_transfer(losses: np.ndarray, learned: Sequence[int | None]) -> float:
    """GEM's FWT = 1/(T-1) sum_{i=2}^{T} (A_{i-1,i} - b_i): gain on a domain before it is trained on.

    b is the initial model. Source: Lopez-Paz and Ranzato 2017 (GEM, arXiv 1706.08840), equation 4.
    """
    return _mean(gem_forward_terms(losses, learned))


def gem_forward_terms(losses: np.ndarray, learned: Sequence[int | None]) -> list[np.ndarray]:
    """The terms of GEM's FWT, one per domain."""
    return [
        losses[0, i] - losses[row - 1, i] for i, row in enumerate(learned) if row is not None and row >= 2
    ]


def forgetting(losses: np.ndarray, learned: Sequence[int | None]) -> np.ndarray:
    """Rise of each earlier domain's loss over the best ever seen on the path, the initial model included.

    0 if the version itself is the best so far, so forgetting is never offset by gains elsewhere.

    Returns:
        float64 [domains]; NaN for domains not learned before the version, and where it is not measured
        what they were learned to: the best of what is left may be far above that.

    Source: Chaudhry et al. 2018 (arXiv 1801.10112), equation 3, with the version itself among the candidates.
    """
    last = len(losses) - 1
    rises = np.full(losses.shape[1], np.nan)
    for i, row in enumerate(learned):
        if row is not None and row < last and not np.isnan(losses[[row, last], i]).any():
            rises[i] = losses[last, i] - np.nanmin(losses[:, i])
    return rises


def relative_change(before: float, after: float) -> float | None:
    """Change of a score, larger being better, as a share of what it was; None if that was 0.

    25.23, then 17.00, is -32.6%: how the table of Lifelong-MoE (Chen et al. 2023, arXiv 2305.12281) reads.
    """
    return (after - before) / before if before else None


def stability_gap(tokens: Sequence[int], losses: Sequence[float | None]) -> dict[str, float | int | None]:
    """The temporary rise of a loss at the start of an update, and when it is over.

    De Lange et al. 2023 (arXiv 2205.13452) saw it for accuracies, Guo et al. 2024 (arXiv 2406.14833) for language models.

    Args:
        tokens: Consumed by the version at every measurement; the first is its start.
        losses: Measured there; None or NaN where one was not finite, as right before a rollback. Such places
            are left out.

    Returns:
        `start` and `worst` loss, `worst_tokens`, `depth` (worst - start, 0 if nothing rises) and `recovery_tokens`: tokens
        until the first measurement after the worst that is no higher than the start; 0 without a rise, None if the loss
        is not back by the end. All are None without a start to compare with.
    """
    measured = [
        (place, loss) for place, loss in zip(tokens, losses) if loss is not None and np.isfinite(loss)
    ]
    if not measured or measured[0][0] != tokens[0]:
        return dict.fromkeys(("start", "worst", "worst_tokens", "depth", "recovery_tokens"))
    start = measured[0][1]
    number, (place, worst) = max(enumerate(measured), key=lambda entry: entry[1][1])
    depth = worst - start
    back = (later - tokens[0] for later, loss in measured[number:] if loss <= start)
    return {
        "start": start,
        "worst": worst,
        "worst_tokens": place - tokens[0],
        "depth": depth,
        "recovery_tokens": next(back, None) if depth > 0 else 0,
    }


def min_accuracy(worst: Sequence[float], learned: Sequence[int | None], last: int) -> float:
    """min-ACC: mean over the domains learned before a version of A at its worst from then to the version's end.

    1/(T-1) sum_{i<T} min A(E_i, f_n) over all steps n from the end of the version that learned i on, that end included.

    Args:
        worst: Highest loss of each domain from when it was learned; NaN is not measured.
        learned: See `learned_at`.
        last: The version's row on its path.

    Source: De Lange et al. 2023 (arXiv 2205.13452), section 3.
    """
    return _mean([-worst[i] for i, row in enumerate(learned) if row is not None and row < last])


def _mean(terms: Sequence[float | np.ndarray]) -> float:
    measured = [float(term) for term in terms if not np.isnan(term)]
    return float(np.mean(measured)) if measured else float("nan")
