"""Bootstrap over documents: how far the choice of documents decides a loss (Efron and Tibshirani 1993, chapter 13).

In each stratum one document fewer is drawn than it has, which makes variances unbiased in small ones (Rao and Wu 1988).
"""

import numpy as np

LEVEL = 0.95
"""Confidence level of the intervals: from percentile 2.5 to 97.5."""
RESAMPLES = 1000
"""Resamples per interval."""
FEWEST = 6
"""Fewest documents, or probes, of a significant result: with 5 that all agree, a sign test gives p = 2^-4 = 6%."""
SMALLEST = 5
"""Fewest documents of a stratum that is resampled on its own."""
CHUNK = 1 << 24
"""Counts held in memory at a time."""


def resampled(sums: np.ndarray, sizes: np.ndarray, seed: int, strata: np.ndarray | None = None) -> np.ndarray:
    """Bootstrap resamples of a mean over documents: summed losses over summed sizes.

    The draws follow from the seed and the numbers of documents, so that models measured on the same documents can be
    compared in pairs, resample by resample. A stratum keeps its share of the size, as the sample of held-out text does.

    Args:
        sums: float64 [models, documents], such as losses in nats; NaN where a model was not measured.
        sizes: float64 [documents], such as tokens, above 0.
        seed: Decides the draws.
        strata: int64 [documents], number of each one's stratum; None is one stratum.

    Returns:
        float64 [models, RESAMPLES].
    """
    random = np.random.default_rng([seed, len(sizes)])
    found = np.zeros((len(sums), RESAMPLES))
    for members in _groups(np.zeros(len(sizes), np.int64) if strata is None else strata):
        share = sizes[members].sum() / sizes.sum()
        found += share * _means(np.ascontiguousarray(sums[:, members]), sizes[members], random)
    return found


def _groups(strata: np.ndarray) -> list[np.ndarray]:
    """The documents of each stratum; strata of fewer than `SMALLEST` are merged."""
    _, numbers, counts = np.unique(strata, return_inverse=True, return_counts=True)
    groups = [np.flatnonzero(numbers == number) for number in np.argsort(counts, kind="stable")]
    together = [np.empty(0, np.int64)]
    while groups and (len(groups[0]) < SMALLEST or 0 < len(together[0]) < SMALLEST):
        together = [np.concatenate([*together, groups.pop(0)])]
    return [members for members in together + groups if len(members)]


def _means(sums: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Resampled means of one stratum, float64 [models, RESAMPLES]."""
    documents, found = len(sizes), []
    rows = max(1, CHUNK // documents)
    for start in range(0, RESAMPLES, rows):
        counts = random.multinomial(
            max(1, documents - 1), np.full(documents, 1 / documents), min(rows, RESAMPLES - start)
        ).astype(float)
        # einsum without BLAS: its sums do not depend on the number of threads.
        total = np.einsum("rd,d->r", counts, sizes)
        found.append(np.einsum("rd,md->mr", counts, sums) / total)
    return np.concatenate(found, axis=1)


def decided(bounds: list[float] | None, items: int, chance: float = 0.0) -> bool:
    """Whether an interval over `items` documents or probes excludes the value of pure chance; False without an interval."""
    return bounds is not None and items >= FEWEST and not bounds[0] <= chance <= bounds[1]


def doubt(bounds: list[float], documents: int) -> str:
    """Why a change is not significant, in words; empty if it is."""
    if decided(bounds, documents):
        return ""
    return "too few documents" if decided(bounds, FEWEST) else "within the noise"


def interval(values: np.ndarray) -> list[float] | None:
    """The percentile interval [low, high] of resampled values; None if any model of them was not measured."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return [float(bound) for bound in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
