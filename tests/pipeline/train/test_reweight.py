"""Shares that follow perplexity, with made-up perplexities: how far they may rise, and what groups keep."""

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.pipeline.plan.consumption import samples_consumed
from perdure.pipeline.plan.mixture import MAX_BLOCK, mixture_shares, moving_groups
from perdure.pipeline.plan.plan import Plan, make_plan, phase_entry, with_phases
from perdure.pipeline.recipe import Mixture
from perdure.pipeline.train import reweight as module
from perdure.pipeline.train.state import TrainState, state_of_json

STEPS, BATCH, INTERVAL = 200, 8, 5


@dataclass(frozen=True)
class Data:
    """As much of a dataset as reweighting looks at."""

    plan: Plan


@pytest.fixture
def recipe():
    mixture = {
        "sources": {"a": {"weight": 0.02}, "b": {"weight": 0.98}},
        "reweight": {"interval": INTERVAL * BATCH * 32, "alpha": 0.5},
        "max_repetition": 2,
    }
    return tiny_recipe("unused", versions__v1__mixture=mixture, versions__v1__tokens=STEPS * BATCH * 32)


def planned(before: int = 0) -> Plan:
    """`a` has 50 samples, `before` of which ancestors took; `b` has enough."""
    entry = {"order": "given", "pool": None}
    sources = {
        "a": entry | {"samples_per_epoch": 50, "start": before},
        "b": entry | {"samples_per_epoch": 5000, "start": 0},
    }
    return make_plan(
        {
            "seed": 1,
            "seq_length": 32,
            "first_sample": 0,
            "num_samples": STEPS * BATCH,
            "sources": sources,
            "phases": [{"first_sample": 0, "counts": {"a": 1, "b": 49}, "reason": "start"}],
        }
    )


def trained(recipe, plan: Plan, state: TrainState, stop: int = STEPS) -> tuple[Plan, TrainState]:
    """Plan and state after `stop` steps in which `a` got worse and worse."""
    data = Data(with_phases(plan, state.phases))
    for step in range(state.step, stop):
        with patch.object(module, "measured_perplexity", return_value={"a": 10.0 + step, "b": 10.0}):
            data, state = module.reweight(
                data, replace(state, step=step), recipe, recipe.versions["v1"], None, {}, None
            )
    return data.plan, replace(state, step=stop)


FRESH = TrainState()


def resumed(state: TrainState) -> TrainState:
    """The state as a checkpoint keeps it."""
    return state_of_json(json.loads(json.dumps(state.as_json())))


@pytest.mark.parametrize("before", [0, 30])
def test_a_source_that_gets_worse_and_worse_is_held_once_it_was_repeated_often_enough(recipe, before, said):
    plan, state = trained(recipe, planned(before), FRESH)
    held = [phase for phase in state.phases if "held" in phase]
    first = held[0]["first_sample"]
    assert held == [phase for phase in state.phases if phase["first_sample"] >= first]
    assert all(phase["held"] == ["a"] and phase["ratios"]["a"] == 0.01 for phase in held)
    # As soon as it was repeated twice, and not before.
    assert samples_consumed((plan, first - INTERVAL * BATCH), "a") < 2 * 50
    assert samples_consumed((plan, first), "a") >= 2 * 50
    rest = (plan.end - first) // 100 + 1
    assert samples_consumed((plan, plan.end), "a") <= samples_consumed((plan, first), "a") + rest
    where = f"step {first // BATCH + 1}: a was repeated 2 times"
    assert said == [f"{where} (mixture.max_repetition); its share is held at 1.00% of the new data"]


def test_it_is_held_alike_after_a_resume(recipe, said):
    whole = trained(recipe, planned(), FRESH)[1]
    told = []
    for stop in (20, 120):
        state = resumed(trained(recipe, planned(), FRESH, stop=stop)[1])
        said.clear()
        assert trained(recipe, planned(), state)[1] == whole
        told += said
    assert len(told) == 1  # what the checkpoint tells was told


def test_somebody_gives_the_samples_once_all_were_repeated(recipe):
    mixture, plan = recipe.versions["v1"].mixture, planned(100)
    assert module.exhausted(plan, 0, mixture) == ["a"]
    everything = mixture.model_copy(update={"max_repetition": 0.0})
    assert module.exhausted(plan, 0, everything) == []


def test_a_branch_measures_at_its_parents_places_in_the_data(recipe):
    """It reads on where its parent stood: the interval goes on as well, and does not begin anew with its own steps."""
    parent, state = trained(recipe, planned(), FRESH, stop=7)
    description = parent.description | {"first_sample": 7 * BATCH, "num_samples": 20 * BATCH}
    inherited = TrainState(perplexity=state.perplexity, ratios=state.ratios)
    _, after = trained(recipe, make_plan(description), inherited, stop=20)
    steps = [phase["first_sample"] // BATCH for phase in after.phases]
    whole = trained(recipe, planned(), FRESH, stop=27)[1].phases
    assert steps == [10, 15, 20, 25] == [phase["first_sample"] // BATCH for phase in whole][1:]


# ------------------------------------------------------------------------------------------- groups

LANGUAGES = {
    "sources": {
        "zh/law": {"weight": 0.1},
        "zh/sea": {"weight": 0.1},
        "en": {"weight": 0.5},
        "fr": {"weight": 0.3},
    },
    "reweight": {"interval": 256, "alpha": 0.5, "groups": {"chinese": ["zh/law", "zh/sea"]}},
}


def test_one_change_by_hand():
    """Chinese is 20%, the rest 80%, whatever the changes; each moves by its own largest change."""
    mixture = Mixture.model_validate(LANGUAGES)
    assert moving_groups(mixture) == [["zh/law", "zh/sea"], ["en", "fr"]]
    before = dict.fromkeys(mixture.sources, 10.0)
    after = {"zh/law": 10.4, "zh/sea": 9.8, "en": 40.0, "fr": 10.0}
    found = module.moved({"zh/law": 0.1, "zh/sea": 0.1, "en": 0.5, "fr": 0.3}, before, after, mixture)
    # zh: f = 1 + .5 * 1 and 1 - .5 * .5, of halves: 1.5 / 2.25. Rest: f = 1.5 and 1, of 5/8 and 3/8: .9375 / 1.3125.
    expected = {"zh/law": 0.2 * 2 / 3, "zh/sea": 0.2 / 3, "en": 0.8 * 5 / 7, "fr": 0.8 * 2 / 7}
    assert found == pytest.approx(expected, abs=1e-15) and list(found) == list(mixture.sources)
    # Without groups the English rise took from Chinese: its topics' rises are small beside it.
    alone = Mixture.model_validate(LANGUAGES | {"reweight": {"interval": 256, "alpha": 0.5}})
    taken_away = module.moved({"zh/law": 0.1, "zh/sea": 0.1, "en": 0.5, "fr": 0.3}, before, after, alone)
    assert taken_away["zh/law"] + taken_away["zh/sea"] == pytest.approx(0.16, abs=1e-3)


def first_plan(mixture: Mixture, k: float = 1.0) -> Plan:
    shares = mixture_shares(mixture, k=k)
    entry = {"order": "given", "pool": None, "samples_per_epoch": 1000, "start": 0}
    return make_plan(
        {
            "seed": 1,
            "seq_length": 32,
            "first_sample": 0,
            "num_samples": 10**6,
            "sources": dict.fromkeys(shares, entry),
            "phases": [phase_entry(0, shares, "start")],
        }
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_groups_keep_their_shares_exactly_and_sources_their_floor_in_every_phase(data):
    """Whatever weights, groups, replay and perplexities: in the samples of a block, as in the first phase."""
    number = data.draw(st.integers(2, 9), "sources")
    names = [f"s{i}" for i in range(number)]
    weight = st.one_of(st.integers(1, 9), st.floats(0.01, 1).map(lambda x: round(x, 3)), st.floats(1e-3, 1))
    group_of = {name: data.draw(st.integers(0, 3), f"group of {name}") for name in names}
    groups = {f"g{i}": [name for name in names if group_of[name] == i] for i in range(3)}
    floor = data.draw(st.sampled_from([0.0, 0.01, 0.1]), "floor")
    tree = {
        "sources": {name: {"weight": data.draw(weight, name)} for name in names},
        "reweight": {
            "interval": 1,
            "alpha": data.draw(st.floats(0.05, 0.95), "alpha"),
            "floor": floor,
            "groups": {group: members for group, members in groups.items() if members},
        },
    }
    if not tree["reweight"]["groups"]:
        tree["reweight"]["groups"] = {"all": names}
    if data.draw(st.booleans(), "replays"):
        tree["replay"] = {
            "share": data.draw(st.integers(1, 90), "share") / 100,
            "sources": {"old": {}, "s0": {"weight": 2}},
        }
    mixture = Mixture.model_validate(tree)
    plan = first_plan(mixture, k=data.draw(st.sampled_from([1.0, 0.6, 0.37]), "k"))
    counts = plan.description["phases"][0]["counts"]
    block = sum(counts.values())
    whole = sum(member.weight for member in mixture.sources.values())
    ratios = {name: mixture.sources[name].weight / whole for name in names}
    perplexity = st.floats(1, 1000)
    before = {name: data.draw(perplexity) for name in names}
    for _ in range(3):
        after = {name: data.draw(perplexity) for name in names}
        movable = [name for group in moving_groups(mixture) if len(group) > 1 for name in group]
        held = data.draw(st.lists(st.sampled_from(movable), max_size=1)) if movable else []
        ratios = module.moved(ratios, before, after, mixture, held)
        entry = phase_entry(0, module.group_shares(plan, ratios, mixture), "reweight")
        length = sum(entry["counts"].values())
        assert list(entry["counts"]) == list(counts) and length <= MAX_BLOCK
        for group in moving_groups(mixture):
            total = sum(mixture.sources[name].weight for name in group) / whole
            assert sum(ratios[name] for name in group) == pytest.approx(total, rel=1e-12)
            # Exactly, in whole samples of the two blocks.
            first, now = (sum(some[name] for name in group) for some in (counts, entry["counts"]))
            assert Fraction(first, block) == Fraction(now, length)
            moving = len(group) > 1 and any(before[name] != after[name] for name in group)
            for name in group if moving else ():
                assert ratios[name] >= min(floor, 1 / len(group)) * total * (1 - 1e-9)
                assert abs(entry["counts"][name] / length - ratios[name]) < len(group) / length + abs(
                    Fraction(first, block) - Fraction(total)
                )
        for key in counts:
            if key.startswith("replay/"):
                assert Fraction(entry["counts"][key], length) == Fraction(counts[key], block)
        before = after


GROUPED = {"sources": {"a": {"weight": 0.2}, "b": {"weight": 0.2}, "c": {"weight": 0.6}}, "max_repetition": 2}


@pytest.fixture
def grouped(recipe):
    rule = {"interval": INTERVAL * BATCH * 32, "alpha": 0.5, "groups": {"small": ["a", "b"]}}
    source = {"reader": {"type": "text", "path": "unused"}}
    mixture = GROUPED | {"reweight": rule}
    changes = {"sources": dict.fromkeys("abc", source), "versions__v1__mixture": mixture}
    return tiny_recipe("unused", versions__v1__tokens=STEPS * BATCH * 32, **changes)


def in_groups(sizes: dict[str, int]) -> Plan:
    sources = {
        name: {"order": "given", "pool": None, "samples_per_epoch": n, "start": 0}
        for name, n in sizes.items()
    }
    phases = [{"first_sample": 0, "counts": {"a": 1, "b": 1, "c": 3}, "reason": "start"}]
    description = {
        "seed": 1,
        "seq_length": 32,
        "first_sample": 0,
        "num_samples": STEPS * BATCH,
        "sources": sources,
    }
    return make_plan(description | {"phases": phases})


def trained_in_groups(recipe, plan, state, stop=STEPS):
    data = Data(with_phases(plan, state.phases))
    for step in range(state.step, stop):
        told = {"a": 10.0 + step % 7, "b": 10.0 + step % 11, "c": 10.0 + step}
        with patch.object(module, "measured_perplexity", return_value=told):
            data, state = module.reweight(
                data, replace(state, step=step), recipe, recipe.versions["v1"], None, {}, None
            )
    return data.plan, replace(state, step=stop)


def test_a_group_keeps_its_share_over_a_whole_run_and_after_every_resume(grouped):
    """What is trained on, sample by sample: `c` gets worse and worse, and takes nothing from the small ones."""
    plenty = {"a": 5000, "b": 5000, "c": 5000}
    plan, whole = trained_in_groups(grouped, in_groups(plenty), FRESH)
    assert len(whole.phases) == STEPS // INTERVAL - 1
    assert len({phase["ratios"]["a"] for phase in whole.phases}) > 10
    for end in range(0, STEPS * BATCH, INTERVAL * BATCH):
        # Within a phase no source is a whole sample off its share.
        small = samples_consumed((plan, end), "a") + samples_consumed((plan, end), "b")
        assert abs(small - Fraction(2, 5) * end) < 2 * (end // (INTERVAL * BATCH) + 1)
    for stop in (1, 20, 111):
        state = resumed(trained_in_groups(grouped, in_groups(plenty), FRESH, stop)[1])
        assert trained_in_groups(grouped, in_groups(plenty), state)[1] == whole


def test_a_source_repeated_often_enough_gives_to_its_own_group(grouped, said):
    _, state = trained_in_groups(grouped, in_groups({"a": 40, "b": 5000, "c": 100}), FRESH)
    held = state.phases[-1]
    assert held["held"] == ["a"]  # `c` was repeated too, but is its whole group
    assert held["ratios"]["a"] == pytest.approx(0.4 * 0.01) and held["ratios"]["c"] == pytest.approx(0.6)
    assert len(said) == 1 and said[0].endswith("its share is held at 1.00% of its group")


def test_perplexities_of_another_sample_are_not_compared(recipe):
    """A checkpoint of an earlier release has that of a text's first documents: it is measured anew, and shares stay until
    then."""
    state = trained(recipe, planned(), FRESH, stop=2 * INTERVAL)[1]
    phases = state.phases
    with patch.object(module, "sampled_domains", return_value=["a"]):
        _, after = trained(recipe, planned(), state, stop=3 * INTERVAL)
        assert after.phases == phases and after.ratios == state.ratios
        assert (
            after.perplexity == {"a": 10.0 + 2 * INTERVAL, "b": 10.0} and after.perplexity_on == module.RULE
        )
        assert len(trained(recipe, planned(), after, stop=3 * INTERVAL + 1)[1].phases) == len(phases) + 1
