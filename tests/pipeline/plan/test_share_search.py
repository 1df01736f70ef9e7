"""The search for the shares of a merge."""

import math

import pytest

from perdure.pipeline.plan.share_search import Candidate, search


def result(blocks, loss):
    """What a search finds under a loss, and the candidates that it asked for."""
    steps, asked = search(blocks), []
    candidate = next(steps)
    while True:
        asked.append(candidate)
        try:
            candidate = steps.send(loss(candidate))
        except StopIteration as end:
            return end.value, asked


def test_one_share_is_found_to_a_twentieth():
    best, asked = result(None, lambda candidate: (candidate.share - 0.34) ** 2)
    assert best == Candidate(0.35, ())
    assert [candidate.share for candidate in asked] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.25, 0.35]


def test_it_leaves_the_range_that_was_tried_everywhere_and_no_more_than_1():
    assert result(None, lambda candidate: -candidate.share)[0] == Candidate(1.0, ())


def test_every_run_of_layers_has_its_own_share():
    def loss(candidate):
        return sum((own - wanted) ** 2 for own, wanted in zip(candidate.parent_share, (0.7, 0.2, 0.05)))

    best, asked = result(3, loss)
    assert best.parent_share == (0.7, 0.2, 0.05)
    assert best.share == 0.3  # the best uniform one, which holds outside the layers
    assert len(asked) == len(set(asked)) <= 40


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_the_worst(bad):
    best, _ = result(None, lambda candidate: bad if candidate.share < 0.3 else candidate.share)
    assert best.share == 0.3


def test_the_descent_goes_on_while_it_gets_better():
    # A valley: each run of layers can follow the other by one step at a time.
    def loss(candidate):
        one, other = candidate.parent_share
        return 0.5 * (one - other) ** 2 + (one - 0.9) ** 2

    best, _ = result(2, loss)
    assert best.parent_share == (0.9, 0.9)


def test_of_equal_candidates_the_first_one_wins():
    assert result(None, lambda candidate: 1.0)[0] == Candidate(0.0, ())
    assert result(2, lambda candidate: 1.0)[0] == Candidate(0.0, (0.0, 0.0))
