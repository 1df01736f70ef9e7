"""The mixture: exact shares, and never a whole sample away from them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.pipeline.plan.mixture import (
    MAX_BLOCK,
    alone_shares,
    block_counts,
    block_pattern,
    is_replayed,
    mixture_shares,
    read_share,
    reweighted,
    rounded_shares,
    trained_share,
)
from perdure.pipeline.recipe import Mixture

counts_strategy = st.lists(st.integers(1, 60), min_size=1, max_size=7)


def mixture(
    sources: dict[str, float], replay: tuple[float, dict[str, float]] | None = None, **settings
) -> Mixture:
    members = lambda weights: {name: {"weight": weight} for name, weight in weights.items()}  # noqa: E731
    tree = {"sources": members(sources)}
    if replay:
        tree["replay"] = {"share": replay[0], "sources": members(replay[1])} | settings
    return Mixture.model_validate(tree)


@given(counts_strategy)
@example([1, 1000])
@example([1, 1, 1, 500, 3])
def test_every_prefix_is_within_one_sample_of_every_share(counts):
    pattern = block_pattern(counts)
    assert np.bincount(pattern, minlength=len(counts)).tolist() == counts
    taken = np.cumsum(pattern[:, None] == np.arange(len(counts)), axis=0)
    expected = np.outer(np.arange(1, len(pattern) + 1), counts) / sum(counts)
    bound = 1 - 1 / (2 * len(counts) - 2) if len(counts) > 1 else 0
    assert np.abs(taken - expected).max() <= bound + 1e-9


@given(st.lists(st.fractions(Fraction(1, 10**6), 1), min_size=1, max_size=8))
def test_counts_fill_a_block_and_forget_no_source(weights):
    shares = [weight / sum(weights) for weight in weights]
    counts = block_counts(shares)
    assert min(counts) >= 1
    assert sum(counts) <= MAX_BLOCK
    for share, count in zip(shares, counts, strict=True):
        assert abs(float(share) - count / sum(counts)) < len(shares) / MAX_BLOCK + 1e-12


def test_shares_that_fit_a_block_are_exact():
    assert block_counts([Fraction(7, 10), Fraction(1, 5), Fraction(1, 10)]) == [7, 2, 1]


def test_a_tiny_weight_still_occurs():
    shares = mixture_shares(mixture({"big": 1.0, "tiny": 1e-9}))
    counts = block_counts(list(shares.values()))
    assert counts == [MAX_BLOCK - 1, 1]
    assert (block_pattern(counts) == 1).sum() == 1


def test_many_tiny_weights_leave_the_rest_to_the_largest():
    shares = mixture_shares(mixture({"big": 1.0} | {f"tiny{i}": 1e-9 for i in range(40)}))
    assert block_counts(list(shares.values())) == [MAX_BLOCK - 40] + [1] * 40


def test_replay_takes_its_share_and_divides_it_by_its_own_weights():
    shares = mixture_shares(mixture({"code": 3, "math": 1}, (0.1, {"prose": 2, "code": 3})))
    assert shares == {
        "code": Fraction(27, 40),
        "math": Fraction(9, 40),
        "replay/prose": Fraction(1, 25),
        "replay/code": Fraction(3, 50),
    }
    assert sum(shares.values()) == 1


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.25, 0.5])
def test_old_and_new_samples_fill_the_budget_at_every_prefix(share):
    shares = mixture_shares(mixture({"code": 1.0}, (share, {"prose": 1.0})))
    pattern = block_pattern(block_counts(list(shares.values())))
    replayed = np.cumsum(np.tile(pattern, 3) == 1)
    expected = share * np.arange(1, len(replayed) + 1)
    assert np.abs(replayed - expected).max() <= 0.5 + 1e-9  # Tijdeman's bound for two sources


def test_the_share_of_replay_is_that_of_what_is_trained_on():
    """With k = 0.6 and a share of 0.2, replay was 29% of the tokens trained on, and is 20%."""
    read, trained = (
        mixture({"a": 1.0}, (0.2, {"b": 1.0}), share_of=kind).replay for kind in ("read", "trained")
    )
    assert (read_share(read, 0.6), trained_share(read, 0.6)) == (Fraction(1, 5), Fraction(5, 17))
    assert (read_share(trained, 0.6), trained_share(trained, 0.6)) == (Fraction(3, 23), Fraction(1, 5))
    assert float(trained_share(read, 0.6)) == pytest.approx(0.294, abs=1e-3)
    assert read_share(read, 1.0) == read_share(trained, 1.0) == Fraction(1, 5)
    assert read_share(None, 0.6) == trained_share(None, 0.6) == 0


@given(
    st.integers(1, 99),
    st.integers(1, 100),
    st.integers(1, 9),
    st.sampled_from(["switch", "domains", "plain"]),
)
def test_in_every_phase_the_share_of_what_is_trained_on_is_exact(percent, hundredths, weight, kind):
    share, k = percent / 100, hundredths / 100
    tree = mixture({"a": weight, "b": 2.0}, (share, {"c": weight, "a": 1.0})).model_dump()
    if kind == "switch":
        tree["switches"] = [{"at": 0.5, "sources": {"d": {}}}]
    changing = Mixture.model_validate(tree)
    phases = [mixture_shares(changing, part, k) for part in range(len(changing.switches) + 1)]
    if kind == "domains":
        phases = [alone_shares(changing, domain, k) for domain in "ab"]
    for shares in phases:
        assert sum(shares.values()) == 1
        replayed = sum(part for key, part in shares.items() if is_replayed(key))
        assert replayed / (replayed + (1 - replayed) * Fraction(hundredths, 100)) == Fraction(percent, 100)
        assert replayed == read_share(changing.replay, k)


QUARTERS = dict.fromkeys("abcd", 0.25)
ONES = dict.fromkeys("abcd", 1.0)


def after(*changes: float) -> dict[str, float]:
    """Perplexities after the changes, from `ONES`."""
    return {topic: 1.0 + change for topic, change in zip("abcd", changes)}


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=9), st.integers(9, 400))
def test_rounded_shares_are_whole_parts_that_sum_to_one_and_leave_nobody_out(weights, parts):
    ratios = {str(number): weight / sum(weights) for number, weight in enumerate(weights)}
    found = rounded_shares(ratios, parts)
    assert list(found) == list(ratios) and sum(found.values()) == 1
    for name, share in found.items():
        assert share * parts == int(share * parts) >= 1
        # A part off at most, but for what the smallest ones are given.
        assert -len(weights) <= share * parts - ratios[name] * parts <= 1 + 1e-9


def test_reweighting_by_the_papers_formula():
    ratios = reweighted(QUARTERS, ONES, after(0.2, 0.1, 0, -0.4), 0.2, {})
    assert [round(ratio, 4) for ratio in ratios.values()] == [0.2785, 0.2658, 0.2532, 0.2025]
    assert sum(ratios.values()) == pytest.approx(1, abs=1e-15)


def test_perplexities_that_stand_still_change_nothing():
    assert reweighted(QUARTERS, ONES, ONES, 0.2, {}) == QUARTERS


def test_a_weight_of_zero_leaves_a_topic_to_the_others():
    ratios = reweighted(QUARTERS, ONES, after(0.2, 0, 0, 0), 0.5, {"a": 0.0})
    assert ratios == QUARTERS
    ratios = reweighted(QUARTERS, ONES, after(0.2, 0, 0, 0), 0.5, {"a": 0.5})
    assert ratios["a"] / ratios["b"] == pytest.approx(1.25)


def test_topics_that_are_held_get_the_floor_and_the_others_the_rest_as_by_the_formula():
    plain = reweighted(QUARTERS, ONES, after(0.2, 0.1, 0, -0.4), 0.2, {})
    held = reweighted(QUARTERS, ONES, after(0.2, 0.1, 0, -0.4), 0.2, {}, 0.01, ["a"])
    assert held["a"] == 0.01 and sum(held.values()) == pytest.approx(1, abs=1e-15)
    assert all(held[topic] / held["d"] == pytest.approx(plain[topic] / plain["d"]) for topic in "bc")
    still = reweighted(QUARTERS, ONES, ONES, 0.2, {}, 0.01, ["a"])
    assert still == pytest.approx({"a": 0.01, "b": 0.33, "c": 0.33, "d": 0.33})


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(1, 100), st.floats(1, 100)), min_size=2, max_size=8),
    st.floats(0.01, 0.99),
    st.floats(0, 0.1),
)
def test_shares_stay_shares_and_above_the_floor(topics, alpha, floor):
    names = [str(number) for number in range(len(topics))]
    total = sum(ratio for ratio, _, _ in topics)
    ratios = {name: ratio / total for name, (ratio, _, _) in zip(names, topics)}
    before, now = ({name: topic[i] for name, topic in zip(names, topics)} for i in (1, 2))
    found = reweighted(ratios, before, now, alpha, {}, floor)
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= (floor * (1 - 1e-9) if before != now else 0)
    rounded = rounded_shares(found, 10_000)
    assert sum(rounded.values()) == 1
    for name in names:
        assert abs(rounded[name] - found[name]) < 2e-4


def test_a_group_of_which_all_are_held_goes_on_by_perplexity():
    before, after = {"a": 10.0, "b": 10.0}, {"a": 11.0, "b": 10.0}
    free = reweighted({"a": 0.5, "b": 0.5}, before, after, 0.5, {}, floor=0.0)
    assert reweighted({"a": 0.5, "b": 0.5}, before, after, 0.5, {}, 0.0, held=["a", "b"]) == free
    assert reweighted({"a": 1.0}, before, after, 0.5, {}, 0.0, held=["a"]) == {"a": 1.0}
    gone = {"a": 0.0, "b": 0.0, "c": 1.0}
    ones = dict.fromkeys(gone, 1.0)
    assert reweighted(gone, ones, ones, 0.5, {}, 0.0, held=["c"]) == {"a": 0.5, "b": 0.5, "c": 0.0}
