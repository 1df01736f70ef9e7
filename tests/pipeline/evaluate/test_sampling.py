"""A sample of held-out text: its mean is that of all of it, its interval as wide as chance, and no place in a file decides."""

from unittest.mock import patch

import numpy as np
import pytest

from perdure.pipeline.evaluate import bootstrap
from perdure.pipeline.evaluate.sampling import PIECES, draw

SHARES = [0.55, 0.25, 0.15, 0.05]
LEVELS = np.array([3.0, 5.5, 4.0, 7.0])


def sorted_corpus(seed: int = 0, documents: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, strata and nats per token of documents, sorted by language and in it by length; long ones cost more."""
    random = np.random.default_rng(seed)
    language = np.sort(random.choice(len(SHARES), documents, p=SHARES))
    tokens = random.lognormal(5.3, 0.9, documents).astype(np.int64) + 2
    order = np.lexsort((tokens, language))
    language, tokens = language[order], tokens[order]
    level = LEVELS[language] + random.normal(0, 0.6, documents) + 0.3 * (np.log(tokens) - 5.3)
    return tokens, language, level


def loss(level: np.ndarray, begin: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Nats of a piece of documents whose beginnings cost more than the rest."""
    return sum(sign * (level * place - 60 * np.exp(-place / 60)) for sign, place in ((-1, begin), (1, stop)))


def hashes(seed: int, documents: int) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, 2**64, documents, dtype=np.uint64)


# Of the smaller budget, strata have so few documents that they are drawn together, so that its intervals are wide.
@pytest.mark.parametrize(("max_tokens", "width"), [(10_000, 1.4), (60_000, 1.15)])
def test_the_mean_is_that_of_all_documents_and_its_interval_holds_it_as_often_as_it_says(max_tokens, width):
    tokens, strata, level = sorted_corpus()
    truth = loss(level, 0 * tokens, tokens).sum() / tokens.sum()
    errors, widths, held, seeds = [], [], 0, 200
    with patch.object(bootstrap, "RESAMPLES", 300):
        for seed in range(seeds):
            document, begin, stop = draw(tokens, hashes(seed, len(tokens)), strata, max_tokens)
            rows, row = np.unique(document, return_inverse=True)
            sums = np.bincount(row, loss(level[document], begin, stop))
            sizes = np.bincount(row, stop - begin)
            drawn = bootstrap.resampled(sums[None], sizes, seed, strata[rows])
            low, high = bootstrap.interval(drawn[0])
            errors.append(sums.sum() / sizes.sum() - truth)
            widths.append(high - low)
            held += low <= truth <= high
    spread = np.std(errors)
    assert abs(np.mean(errors)) < 3 * spread / seeds**0.5  # unbiased
    assert 0.85 < np.mean(widths) / (2 * 1.96 * spread) < width
    assert 0.91 <= held / seeds <= 0.995
    # The first documents of the file are far off: all are short, and of one language.
    first = slice(0, np.searchsorted(np.cumsum(tokens), max_tokens))
    begun = loss(level[first], 0 * tokens[first], tokens[first]).sum() / tokens[first].sum()
    assert abs(begun - truth) > 5 * spread


def test_strata_have_their_shares_to_within_a_document():
    tokens, strata, _ = sorted_corpus()
    longest = 40_000 // PIECES
    for seed in range(20):
        document, begin, stop = draw(tokens, hashes(seed, len(tokens)), strata, 40_000)
        total = (stop - begin).sum()
        assert 40_000 - longest <= total <= 40_000
        for stratum in range(len(SHARES)):
            share = tokens[strata == stratum].sum() / tokens.sum()
            assert abs((stop - begin)[strata[document] == stratum].sum() - share * total) < 2 * longest


def test_no_place_decides():
    """Documents in another order, as from other files, shards or layouts: the same text in the same order."""
    tokens, strata, _ = sorted_corpus(documents=400)
    names = hashes(0, 400)
    document, begin, stop = draw(tokens, names, strata, 9000)
    order = np.random.default_rng(1).permutation(400)
    again, begins, stops = draw(tokens[order], names[order], strata[order], 9000)
    np.testing.assert_array_equal(names[document], names[order][again])
    np.testing.assert_array_equal((begin, stop), (begins, stops))
    assert (np.diff(names[document].astype(object)) >= 0).all()


def test_every_token_is_as_likely_as_any_other():
    """One document has most of the text: it keeps that share, in pieces from all over it, and none is longer than its share."""
    tokens = np.append(np.full(60, 50), 9000).astype(np.int64)
    strata, taken = np.append(np.zeros(60), 1).astype(np.int64), np.zeros(9000)
    shares = []
    for seed in range(400):
        document, begin, stop = draw(tokens, hashes(seed, 61), strata, 2000)
        long = document == 60
        assert (stop[~long] - begin[~long] == 50).all() and (begin[long][1:] > stop[long][:-1]).all()
        for first, last in zip(begin[long], stop[long]):
            taken[first:last] += 1
        shares.append((stop - begin)[long].sum() / (stop - begin).sum())
    assert np.mean(shares) == pytest.approx(0.75, abs=0.01)
    expected = 400 * 2000 / 12_000
    assert taken.mean() == pytest.approx(expected, rel=0.05)
    assert abs(taken - expected).max() < 5 * expected**0.5


@pytest.mark.parametrize("max_tokens", [1, 7, 19, 21])
def test_small_budgets_take_something(max_tokens):
    tokens = np.array([30, 40, 2, 1], np.int64)
    document, begin, stop = draw(tokens, hashes(3, 4), np.array([0, 0, 1, 1]), max_tokens)
    assert len(document) and (stop > begin).all() and (stop - begin).sum() <= max_tokens
