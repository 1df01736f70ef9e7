"""Bootstrap intervals: deterministic, paired, and as wide as theory says."""

import math

import numpy as np
import pytest

from perdure.pipeline.evaluate.bootstrap import RESAMPLES, doubt, interval, resampled

DOCUMENTS = 400


@pytest.fixture(scope="module")
def losses():
    """Documents of different lengths and difficulty: the model costs 3 nats a token, give or take a document's own."""
    random = np.random.default_rng(0)
    tokens = random.integers(20, 60, DOCUMENTS).astype(float)
    return tokens, tokens * (3 + random.normal(0, 0.5, DOCUMENTS))


def test_an_interval_holds_the_loss_and_is_as_wide_as_the_central_limit_theorem_says(losses):
    tokens, sums = losses
    mean = sums.sum() / tokens.sum()
    low, high = interval(resampled(sums[None], tokens, seed=1)[0])
    # Variance of a ratio of sums: the mean square of the residuals over the number of documents.
    error = np.sqrt(np.mean((sums - mean * tokens) ** 2) / DOCUMENTS) / tokens.mean()
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_draws_follow_from_the_seed_whatever_is_drawn_beside(losses):
    tokens, sums = losses
    alone = resampled(sums[None], tokens, seed=1)
    np.testing.assert_array_equal(alone[0], resampled(np.stack([2 * sums, sums]), tokens, seed=1)[1])
    assert not np.array_equal(alone, resampled(sums[None], tokens, seed=2))
    assert alone.shape == (1, RESAMPLES)


def test_pairs_cancel_what_the_documents_have_in_common(losses):
    tokens, sums = losses
    before, after = resampled(np.stack([sums, sums - 0.25 * tokens]), tokens, seed=1)
    assert interval(after - before) == pytest.approx([-0.25, -0.25], abs=1e-12)
    low, high = interval(before)
    assert high - low > 0.05


def test_what_was_not_measured_has_no_interval(losses):
    tokens, sums = losses
    found = resampled(np.stack([sums, np.full(DOCUMENTS, math.nan)]), tokens, seed=1)
    assert interval(found[0]) is not None and interval(found[1]) is None


def test_strata_keep_their_shares_and_small_ones_are_drawn_together():
    """Two languages, each of documents that cost alike: nothing is left to chance, though the languages differ."""
    tokens = np.array([10.0] * 6 + [30.0] * 6)
    strata = np.repeat([0, 1], 6)
    sums = tokens * np.repeat([2.0, 5.0], 6)
    assert set(resampled(sums[None], tokens, 1, strata)[0].round(12)) == {(2 + 3 * 5) / 4}
    # Without strata the languages' shares vary, as they do if too few documents tell how they differ.
    for unknown in (None, np.arange(12)):
        low, high = interval(resampled(sums[None], tokens, 1, unknown)[0])
        assert low < 4 and high > 4.5
    # The four of one language are drawn with the six of the next larger stratum, and not with the largest.
    strata = np.array([0] * 4 + [1] * 6 + [2] * 20)
    tokens, sums = np.ones(30), np.array([1.0] * 4 + [2.0] * 6 + [9.0] * 20)
    drawn = resampled(sums[None], tokens, 1, strata)[0]
    assert (
        drawn.min() >= (10 * 1 + 20 * 9) / 30 and drawn.max() <= (10 * 2 + 20 * 9) / 30 and drawn.std() > 0.01
    )


@pytest.mark.parametrize("documents", [2, 5, 50])
def test_the_variance_is_unbiased_in_small_strata(documents):
    """Of equally long documents, the mean over many samples of the resamples' variance is that of the samples' means."""
    random = np.random.default_rng(0)
    samples = random.normal(0, 1, (400, documents))
    drawn = resampled(samples, np.ones(documents), seed=1)
    assert drawn.var(axis=1).mean() == pytest.approx(1 / documents, rel=0.15)


def test_chunks_of_many_documents_are_drawn_alike(losses, monkeypatch):
    tokens, sums = losses
    whole = resampled(sums[None], tokens, seed=1)
    monkeypatch.setattr("perdure.pipeline.evaluate.bootstrap.CHUNK", 7 * DOCUMENTS)
    np.testing.assert_array_equal(whole, resampled(sums[None], tokens, seed=1))


@pytest.mark.parametrize(
    ("bounds", "documents", "said"),
    [
        ([-1.6, -1.0], 6, ""),
        ([-1.6, -1.0], 5, "too few documents"),
        ([-1.6, 0.1], 5, "within the noise"),
        ([-1.6, 0.1], 60, "within the noise"),
    ],
)
def test_why_a_change_says_nothing(bounds, documents, said):
    assert doubt(bounds, documents) == said
