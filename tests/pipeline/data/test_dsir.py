"""Importance resampling: the formulas by hand, and by statistics."""

import math
import random

import numpy as np
import pytest

from perdure.pipeline.data import dsir
from perdure.pipeline.data.features import uni_and_bigrams


def test_n_grams_are_words_punctuation_and_neighbours():
    assert uni_and_bigrams("Hello, world") == ["hello", ",", "world", "hello ,", ", world"]
    assert uni_and_bigrams("中文") == ["中", "文", "中 文"]


def test_counts_are_of_all_uni_and_bigrams():
    counts = dsir.bucket_counts(["a b a b", ""], 10_000)
    assert counts.shape == (2, 10_000)
    assert sorted(counts[0].data.tolist()) == [1.0, 2.0, 2.0, 2.0]  # "b a"; "a", "b", "a b"
    assert counts[1].nnz == 0


def test_weights_by_hand():
    ratios = dsir.log_ratios(np.array([3.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0]))
    expected = [math.log(3), 0.0, math.log(1e-8 / 0.5)]
    assert ratios == pytest.approx(expected, abs=1e-6)
    counts = np.array([[2.0, 5.0, 0.0], [0.0, 1.0, 1.0]])
    assert dsir.log_weights(counts, ratios) == pytest.approx([2 * expected[0], expected[2]], abs=1e-6)


def test_noise_is_standard_gumbel_and_depends_on_hash_and_seed_alone():
    hashes = np.random.default_rng(0).integers(0, 2**64, 200_000, dtype=np.uint64)
    noise = dsir.gumbel_noise(hashes, 7)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert np.mean(noise < 1) == pytest.approx(math.exp(-math.exp(-1)), abs=0.005)
    assert (dsir.gumbel_noise(hashes[::-1], 7) == noise[::-1]).all()
    assert abs(np.corrcoef(noise, dsir.gumbel_noise(hashes, 8))[0, 1]) < 0.01


def test_gumbel_top_one_draws_in_proportion_to_the_weights():
    weights, draws = np.array([1.0, 2.0, 5.0]), 20_000
    noise = dsir.gumbel_noise(np.arange(3 * draws, dtype=np.uint64), 1).reshape(draws, 3)
    first = np.argmax(np.log(weights) + noise, 1)
    assert np.bincount(first) / draws == pytest.approx(weights / 8, abs=0.015)


def test_a_mixture_of_two_languages_gives_back_the_target():
    rng = random.Random(0)
    common = "the of and to in is on it".split()
    sea, farm = "ship wave sail harbour anchor".split(), "barn wheat cow plough field".split()

    def text(own: list[str]) -> str:
        return " ".join(rng.choice(own if rng.random() < 0.3 else common) for _ in range(40))

    source = [text(farm if number % 5 else sea) for number in range(1000)]  # a fifth is about the sea
    target = dsir.bucket_counts([text(sea) for _ in range(100)], 10_000)
    counts = dsir.bucket_counts(source, 10_000)
    ratios = dsir.log_ratios(*(np.asarray(side.sum(0)).ravel() for side in (target, counts)))
    scores = dsir.log_weights(counts, ratios) + dsir.gumbel_noise(np.arange(1000, dtype=np.uint64), 0)
    taken = np.argsort(-scores)[:150]
    assert np.sum(taken % 5 == 0) >= 147
