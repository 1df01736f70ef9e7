"""Metrics on hand-made matrices, where every value can be checked with pencil and paper."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.evaluate import metrics

# Three versions, one new domain each: a, b, c.            a    b    c
CHAIN = np.array([[8.0, 8.0, 8.0],  # initial model
                  [3.0, 7.0, 7.5],  # learns a
                  [3.5, 2.0, 6.0],  # learns b
                  [4.0, 2.5, 1.0]])  # learns c  # fmt: skip
ONE_EACH = [1, 2, 3]
nan = float("nan")


def test_published_formulas_on_one_domain_per_version():
    assert metrics.average_accuracy(CHAIN, ONE_EACH) == -(4.0 + 2.5 + 1.0) / 3
    assert metrics.backward_transfer(CHAIN, ONE_EACH) == -(1.0 + 0.5) / 2
    # One term (domain b), divisor T - 1 = 2.
    assert metrics.forward_transfer(CHAIN, ONE_EACH) == (8.0 - 2.5) / 2
    # A_{1,b} - b_b = 1 and A_{2,c} - b_c = 2.
    assert metrics.gem_forward_transfer(CHAIN, ONE_EACH) == (1.0 + 2.0) / 2
    np.testing.assert_array_equal(metrics.forgetting(CHAIN, ONE_EACH), [1.0, 0.5, nan])


def test_two_versions_have_no_domain_in_between():
    assert math.isnan(metrics.forward_transfer(CHAIN[:3], [1, 2, None]))
    assert metrics.gem_forward_transfer(CHAIN[:3], [1, 2, None]) == 1.0
    assert metrics.backward_transfer(CHAIN[:3], [1, 2, None]) == -0.5
    assert metrics.average_accuracy(CHAIN[:3], [1, 2, None]) == -(3.5 + 2.0) / 2


def test_a_root_of_random_weights_has_nothing_to_forget():
    learned = [1, None, None]
    assert metrics.average_accuracy(CHAIN[:2], learned) == -3.0
    assert math.isnan(metrics.backward_transfer(CHAIN[:2], learned))
    assert math.isnan(metrics.gem_forward_transfer(CHAIN[:2], learned))
    assert np.isnan(metrics.forgetting(CHAIN[:2], learned)).all()


def test_a_pretrained_initial_model_can_forget_at_once():
    losses = np.array([[2.0, 4.0], [2.25, 3.0]])
    assert metrics.backward_transfer(losses, [0, 1]) == -0.25
    np.testing.assert_array_equal(metrics.forgetting(losses, [0, 1]), [0.25, nan])


def test_forgetting_counts_from_the_best_and_not_from_when_it_was_learned():
    losses = np.array([[9.0], [3.0], [2.0], [2.5]])
    np.testing.assert_array_equal(metrics.forgetting(losses, [1]), [0.5])
    assert metrics.backward_transfer(losses, [1]) == 0.5
    np.testing.assert_array_equal(metrics.forgetting(losses[:3], [1]), [0.0])


def test_several_domains_of_one_version_are_one_term_each():
    learned = [1, 1, 2]
    losses = CHAIN[:3]
    assert metrics.backward_transfer(losses, learned) == ((3.0 - 3.5) + (7.0 - 2.0)) / 2


def test_unmeasured_values_are_left_out():
    losses = CHAIN.copy()
    losses[3, 0] = nan
    assert metrics.average_accuracy(losses, ONE_EACH) == -(2.5 + 1.0) / 2
    assert metrics.backward_transfer(losses, ONE_EACH) == -0.5
    losses[0] = nan
    assert math.isnan(metrics.forward_transfer(losses, ONE_EACH))
    assert math.isnan(metrics.gem_forward_transfer(losses, ONE_EACH))
    np.testing.assert_array_equal(metrics.forgetting(losses, ONE_EACH), [nan, 0.5, nan])
    assert math.isnan(metrics.average_accuracy(np.full((2, 1), nan), [1]))


@pytest.mark.parametrize(("known", "other"), [((), None), (["law"], 0)])
def test_a_domain_is_learned_by_the_first_version_that_brings_it_in(known, other):
    new = [["prose"], ["code", "prose"], ["code"]]
    assert metrics.learned_at(["prose", "code", "law"], new, known) == [1, 2, other]


@given(
    st.integers(1, 5).flatmap(
        lambda size: st.lists(
            st.lists(st.floats(0, 20), min_size=size, max_size=size), min_size=size + 1, max_size=size + 1
        )
    )
)
def test_metrics_agree_with_sums_written_out(rows):
    losses = np.array(rows)
    size = losses.shape[1]
    learned = list(range(1, size + 1))
    score, base = -losses, -losses[0]
    assert metrics.average_accuracy(losses, learned) == pytest.approx(score[size].sum() / size)
    if size > 1:
        backward = sum(score[size, i - 1] - score[i, i - 1] for i in range(1, size)) / (size - 1)
        gem = sum(score[i - 1, i - 1] - base[i - 1] for i in range(2, size + 1)) / (size - 1)
        assert metrics.backward_transfer(losses, learned) == pytest.approx(backward)
        assert metrics.gem_forward_transfer(losses, learned) == pytest.approx(gem)
    if size > 2:
        forward = sum(score[size, i - 1] - base[i - 1] for i in range(2, size)) / (size - 1)
        assert metrics.forward_transfer(losses, learned) == pytest.approx(forward)
    rises = metrics.forgetting(losses, learned)
    assert (rises[:-1] >= 0).all() and np.isnan(rises[-1])


@pytest.mark.parametrize(
    ("scores", "percentages"),
    [
        ([33.66, 26.81, 20.22], [-20.4, -39.9]),  # Lifelong-MoE
        ([25.23, 17.00, 12.99], [-32.6, -48.5]),  # L2
        ([25.23, 12.23, 14.18], [-51.5, -43.8]),  # memory replay
    ],
)
def test_the_six_percentages_of_the_lifelong_moe_table(scores, percentages):
    """TriviaQA F1 after A, A -> B and A -> B -> C, relative to A (arXiv 2305.12281)."""
    found = [100 * metrics.relative_change(scores[0], score) for score in scores[1:]]
    assert [round(value, 1) for value in found] == percentages


def test_traces_numbers_by_hand():
    """Scores (.6), then (.5, .7): OP .6, GEM's BWT -.1, TRACE's -.05; general scores (40, 30) to (38, 32): 0."""
    losses = -np.array([[nan, nan], [0.6, nan], [0.5, 0.7]])
    assert metrics.average_accuracy(losses, [1, 2]) == pytest.approx(0.6)
    assert metrics.backward_transfer(losses, [1, 2]) == pytest.approx(-0.1)
    assert metrics.trace_backward_transfer(losses, [1, 2]) == pytest.approx(-0.05)
    assert math.isnan(metrics.trace_backward_transfer(losses[:2, :1], [1]))
    general = -np.array([[40.0, 30.0, 1.0], [38.0, 32.0, 9.0]])
    assert metrics.general_change(general, [0, 0, 1]) == 0.0
    assert metrics.general_change(general[:, :1], [0]) == -2.0 and math.isnan(
        metrics.general_change(general, [1, 1, 1])
    )


def test_nothing_is_no_share_of_nothing():
    assert metrics.relative_change(0.0, 0.5) is None


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        # Back at exactly the start's loss, at the fourth measurement.
        ([2.0, 3.5, 2.5, 2.0, 1.0], {"worst": 3.5, "worst_tokens": 100, "depth": 1.5, "recovery_tokens": 300}),
        # It falls below the start first, and only then comes the gap.
        ([2.0, 1.5, 2.25, 1.75, 3.0], {"worst": 3.0, "worst_tokens": 400, "depth": 1.0, "recovery_tokens": None}),
        ([2.0, 2.5, 2.25, 2.125, 2.0625], {"worst": 2.5, "worst_tokens": 100, "depth": 0.5, "recovery_tokens": None}),
        ([2.0, 1.5, 1.0, 0.5, 0.25], {"worst": 2.0, "worst_tokens": 0, "depth": 0.0, "recovery_tokens": 0}),
    ],
)  # fmt: skip
def test_stability_gap(losses, expected):
    found = metrics.stability_gap([0, 100, 200, 300, 400], losses)
    assert found == {"start": 2.0} | expected


@pytest.mark.parametrize("broken", [None, nan, math.inf])
def test_places_without_a_finite_loss_are_left_out_of_a_gap(broken):
    found = metrics.stability_gap([0, 100, 200, 300], [2.0, broken, 2.5, 2.0])
    assert found == {"start": 2.0, "worst": 2.5, "worst_tokens": 200, "depth": 0.5, "recovery_tokens": 300}
    nothing = dict.fromkeys(found)
    assert metrics.stability_gap([0, 100, 200], [broken, 2.5, 2.0]) == nothing  # a rise over what?
    assert metrics.stability_gap([0, 100], [broken, broken]) == nothing


def test_tokens_of_a_gap_count_from_the_first_measurement():
    assert metrics.stability_gap([50, 150, 250], [1.0, 2.0, 1.0])["recovery_tokens"] == 200


def test_min_accuracy_is_over_domains_learned_before():
    assert metrics.min_accuracy([3.0, 5.0, 9.0], [1, 1, 2], last=2) == -4.0
    assert metrics.min_accuracy([3.0, nan, 9.0], [1, 1, 2], last=2) == -3.0
    assert math.isnan(metrics.min_accuracy([3.0], [1], last=1))
