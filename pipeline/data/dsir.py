"""Data selection by importance resampling (DSIR; Xie, Santurkar, Ma and Liang 2023, arXiv 2302.03169): pure functions.

A document z with n-gram counts c(z) over m hashed buckets has the log importance weight
    log w(z) = sum_j c_j(z) (log p_j - log q_j),
p and q being the bucket frequencies of the target and of the source. Drawing k documents without replacement with odds w
is taking the k highest log w + g, g standard Gumbel noise (the Gumbel top-k trick).
"""

from typing import Any

import numpy as np

SMOOTHING = 1e-8
"""Added to frequencies, as in the authors' code, so that a bucket that one side lacks has a finite logarithm."""


def bucket_counts(texts: list[str], num_buckets: int) -> Any:
    """Counts of hashed word uni- and bigrams, scipy CSR float64 [texts, num_buckets]."""
    from sklearn.feature_extraction.text import HashingVectorizer

    from perdure.pipeline.data.features import uni_and_bigrams

    vectorizer = HashingVectorizer(
        analyzer=uni_and_bigrams, n_features=num_buckets, alternate_sign=False, norm=None
    )
    return vectorizer.transform(texts)


def log_ratios(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """log p_j - log q_j, float64 [num_buckets], from the counts of each side, [num_buckets]."""
    p, q = target / target.sum(), source / source.sum()
    return np.log(p + SMOOTHING) - np.log(q + SMOOTHING)


def log_weights(counts: Any, ratios: np.ndarray) -> np.ndarray:
    """Log importance weights, float64 [texts], of counts [texts, num_buckets] under `log_ratios`."""
    return np.asarray(counts @ ratios, np.float64)


def gumbel_noise(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Standard Gumbel noise, float64 [documents], a pure function of a document's hash (uint64) and the seed."""
    with np.errstate(over="ignore"):
        x = hashes + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    uniform = ((x ^ x >> np.uint64(31)) >> np.uint64(12)).astype(np.float64) * 2.0**-52 + 2.0**-53
    return -np.log(-np.log(uniform))
