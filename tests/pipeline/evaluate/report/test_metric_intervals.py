"""Intervals of metrics along a path, beside sums by hand over the same draws."""

import math

import numpy as np
import pytest

from perdure.pipeline.evaluate.bootstrap import RESAMPLES
from perdure.pipeline.evaluate.report.ledger import Documents, draws
from perdure.pipeline.evaluate.report.lineage_paths import LineagePath, path_metrics
from perdure.pipeline.evaluate.report.metric_intervals import metric_intervals

SEED = 5
SOURCES = ["a", "b", "c"]
PATHS = {
    "one": LineagePath(1, ["one"], [], [0, 1], None, [1, None, None]),
    "two": LineagePath(2, ["one", "two"], [9], [0, 1, 2], None, [1, 2, None]),
    "three": LineagePath(3, ["one", "two", "three"], [9, 9], [0, 1, 2, 3], None, [1, 2, 3]),
}
SIZES = {"a": [10, 20, 30, 40, 50, 60], "b": [10] * 7, "c": [5, 10] * 4}


def documents(domain: str) -> Documents:
    """Mean losses of every model on every document: known, and different in each."""
    tokens, random = np.array(SIZES[domain], float), np.random.default_rng(ord(domain))
    means = np.array([9.0, 5.0, 4.0, 4.5])[:, None] + random.normal(0, 1, (4, len(tokens)))
    labels = {"topic": [None] * len(tokens), "language": [None] * len(tokens)}
    return Documents(tokens, 4 * tokens, labels, means * tokens, np.zeros(len(tokens), np.int64))


@pytest.fixture
def measured():
    found = {domain: documents(domain) for domain in SOURCES}
    losses = np.stack([entry.losses.sum(1) / entry.tokens.sum() for entry in found.values()], axis=1)
    return found, losses


def by_hand(entry: Documents, number: int) -> np.ndarray:
    """Losses of every model in every draw of a domain, float64 [rows, RESAMPLES]."""
    size = len(entry.tokens)
    random = np.random.default_rng([SEED + number, size])
    counts = random.multinomial(size - 1, np.full(size, 1 / size), RESAMPLES)
    return np.array([[(row @ sums) / (row @ entry.tokens) for row in counts] for sums in entry.losses])


def ends(values: np.ndarray):
    return pytest.approx(list(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_every_metric_by_hand(measured):
    found, losses = measured
    spans = metric_intervals(PATHS, SOURCES, losses, {}, draws(found, SEED))
    a, b, c = (by_hand(found[domain], number) for number, domain in enumerate(SOURCES))
    three = spans["three"]
    assert three["acc"] == ends(-(a[3] + b[3] + c[3]) / 3)
    assert three["bwt"] == ends(((a[1] - a[3]) + (b[2] - b[3])) / 2)
    assert three["fwt"] == ends((b[0] - b[3]) / 2)  # over T - 1, as the number
    assert three["fwt_gem"] == ends(((b[0] - b[1]) + (c[0] - c[2])) / 2)
    best = [int(np.argmin(losses[:, column])) for column in (0, 1)]
    assert three["forgetting"] == ends(((a[3] - a[best[0]]) + (b[3] - b[best[1]])) / 2)
    assert spans["one"]["acc"] == ends(-a[1])
    assert (spans["one"]["bwt"], spans["one"]["fwt"], spans["one"]["forgetting"]) == (None, None, None)
    numbers = path_metrics(PATHS, SOURCES, losses, {})
    for name, own in spans.items():
        for key, span in own.items():
            value = numbers[key][name]["mean"] if key == "forgetting" else numbers[key][name]
            assert math.isnan(value) if span is None else span[0] <= value <= span[1]


def test_a_model_that_is_equal_to_the_one_before_has_changed_by_nothing_in_every_draw(measured):
    found, losses = measured
    for entry in found.values():
        entry.losses[3] = entry.losses[2] = entry.losses[1]
    losses[3] = losses[2] = losses[1]
    spans = metric_intervals(PATHS, SOURCES, losses, {}, draws(found, SEED))["three"]
    assert spans["bwt"] == [0.0, 0.0] and spans["forgetting"] == [0.0, 0.0]
    assert spans["acc"][0] < spans["acc"][1]  # which documents there are still decides the loss itself


def test_what_has_no_documents_has_no_interval(measured):
    found, losses = measured
    del found["a"]
    spans = metric_intervals(PATHS, SOURCES, losses, {}, draws(found, SEED))["three"]
    assert (spans["acc"], spans["bwt"], spans["forgetting"]) == (None, None, None)
    assert spans["fwt"] and spans["fwt_gem"]  # of `b` and `c` alone
    # A branch is compared with its parent where it left it: losses were measured there, documents not kept apart.
    left = {"three": LineagePath(3, ["one", "two", "three"], [9, 4], [0, 1, None, 3], 4, [1, 2, 3])}
    starts = {"three": np.array([4.1, 4.2, 4.3])}
    found = {domain: documents(domain) for domain in SOURCES}
    spans = metric_intervals(left, SOURCES, losses, starts, draws(found, SEED))["three"]
    assert spans["acc"] and spans["fwt"] and spans["bwt"] is None and spans["fwt_gem"] is None
    # What is null has no interval, even if documents are there for the rest of it.
    hidden = {"three": starts["three"] * math.nan}
    assert math.isnan(path_metrics(left, SOURCES, losses, hidden)["bwt"]["three"])
    spans = metric_intervals(left, SOURCES, losses, hidden, draws(found, SEED))["three"]
    assert spans["acc"] and (spans["bwt"], spans["fwt_gem"], spans["forgetting"]) == (None, None, None)
