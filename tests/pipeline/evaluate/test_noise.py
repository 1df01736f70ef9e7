"""Rates by kind of noise on hand-made tokens."""

import numpy as np
import pytest

from perdure.pipeline.evaluate.noise import keep_rates, separation, table, token_kinds


def test_a_token_belongs_to_the_span_of_its_middle():
    spans = [(4, 10, "ad"), (10, 12, "html")]
    offsets = [(0, 4), (3, 5), (2, 5), (4, 9), (9, 12), (11, 13), (12, 20)]
    assert token_kinds(offsets, spans) == ["clean", "ad", "clean", "ad", "html", "clean", "clean"]
    assert token_kinds(offsets, []) == ["clean"] * 7


def test_rates():
    kinds = np.array(["clean", "ad", "clean", "html", "ad", "clean"])
    selected = np.array([True, False, True, True, False, False])
    assert keep_rates(selected, kinds) == {"clean": 2 / 3, "ad": 0.0, "html": 1.0, "noise": 1 / 3}
    assert keep_rates(np.array([True, False]), np.array(["clean", "clean"])) == {"clean": 0.5}


def test_separation_is_the_chance_that_clean_wins_ties_half():
    kinds = np.array(["clean", "ad", "clean", "ad"])
    assert separation(np.array([3.0, 1.0, 4.0, 2.0]), kinds) == 1.0
    assert separation(np.array([1.0, 3.0, 2.0, 4.0]), kinds) == 0.0
    assert separation(np.array([1.0, 1.0, 1.0, 1.0]), kinds) == 0.5
    rng = np.random.default_rng(0)
    scores, many = rng.integers(0, 9, 300).astype(float), rng.choice(["clean", "ad", "html"], 300)
    clean, noise = scores[many == "clean"][:, None], scores[many != "clean"][None]
    expected = ((clean > noise) + 0.5 * (clean == noise)).mean()
    assert separation(scores, many) == pytest.approx(expected, abs=1e-12)


def test_the_table():
    way = {"rates": {"clean": 0.8, "noise": 0.2, "ad": 0.2}, "separation": 0.9}
    result = {"k": 0.6, "tokens": {"ad": 10, "clean": 1000}, "ways": {"excess": way}}
    assert table(result).splitlines() == [
        "| score | clean (1,000) | noise (10) | ad (10) | noise / clean | AUC |",
        "| --- | --- | --- | --- | --- | --- |",
        "| excess | 0.800 | 0.200 | 0.200 | 0.25 | 0.900 |",
    ]
