"""Bootstrap over documents: how far the choice of documents decides a loss (Efron and Tibshirani 1993, chapter 13)."""

import numpy as np

LEVEL = 0.95
"""Of the intervals: from percentile 2.5 to 97.5."""
RESAMPLES = 1000
"""Drawn for every interval."""
FEWEST = 6
"""Documents, or probes, from which on an interval can leave out chance: of 5 that all agree, a sign test gives p = 2^-4 = 6%."""
CHUNK = 1 << 24
"""Counts held at a time."""


def resampled(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    """Means over documents that are drawn with replacement: what they cost together over their joint size.

    The draws follow from the seed and the number of documents, so that models measured on the same documents can be
    compared in pairs, resample by resample.

    Args:
        sums: float64 [models, documents], such as losses in nats; NaN where a model was not measured.
        sizes: float64 [documents], such as tokens; 0 leaves a document out.
        seed: Decides the draws.

    Returns:
        float64 [models, RESAMPLES]; NaN where nothing of any size was drawn.
    """
    documents = len(sizes)
    random, found = np.random.default_rng([seed, documents]), []
    rows = max(1, CHUNK // max(documents, 1))
    for start in range(0, RESAMPLES, rows):
        counts = np.empty((min(rows, RESAMPLES - start), documents))
        for row in counts:
            row[:] = np.bincount(random.integers(documents, size=documents), minlength=documents)
        # einsum without BLAS: its sums do not depend on the number of threads.
        total = np.einsum("rd,d->r", counts, sizes)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.einsum("rd,md->mr", counts, np.where(sizes > 0, sums, 0.0)) / total)
    return np.concatenate(found, axis=1)


def decided(bounds: list[float] | None, items: int, chance: float = 0.0) -> bool:
    """Whether an interval over so many items leaves out what chance alone would give; False without an interval."""
    return bounds is not None and items >= FEWEST and not bounds[0] <= chance <= bounds[1]


def interval(values: np.ndarray) -> list[float] | None:
    """The percentile interval [low, high] of resampled values; None if any model of them was not measured."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return [float(bound) for bound in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
