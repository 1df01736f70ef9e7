"""What a version will consume, foreseen from its phases, is what its plan takes."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_recipe

from perdure.pipeline.checks.preview import preview
from perdure.pipeline.core.files import write_atomic, write_json
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.plan.forecast import (
    consumed_before,
    is_foreseen,
    planned_phases,
    planned_samples,
    streams_before,
)
from perdure.pipeline.plan.history import appended_phases
from perdure.pipeline.plan.lineage import continues_parent, resolved_schedule, switch_steps
from perdure.pipeline.plan.plan import consumed_samples, make_plan
from perdure.pipeline.plan.planning import phase_entries
from perdure.pipeline.plan.schedule import learning_rate
from tests.pipeline.plan.paths import MIXTURE, STEP, branch, main_path, recipe_of, update


def test_a_blend_switches_once_when_the_rate_has_fallen_to_a_fifth(tmp_path):
    switches = [{"at_lr": 0.2, "sources": {"b": {}}}]
    versions = {
        "main": main_path(10),
        "reuse": update("main", 1000, schedule={"type": "decay"}, mixture=MIXTURE | {"switches": switches}),
    }
    recipe = recipe_of(tmp_path, versions)
    (step,) = switch_steps(recipe, "reuse")
    schedule = resolved_schedule(recipe, "reuse")
    assert learning_rate(schedule, step, 1000) > 0.01 / 5 >= learning_rate(schedule, step + 1, 1000)
    assert step == 711  # cos(pi p) = 2 (.2 - .01) / .99 - 1 at p = .7113
    assert planned_samples(recipe, "reuse") == {"a": 711 * 6, "b": 711 * 2 + 289 * 8}


def test_switches_by_share_and_by_tokens(tmp_path):
    switches = [{"at": 0.25, "sources": {"b": {}}}, {"at_tokens": 10 * STEP + 1, "sources": {"a": {}}}]
    recipe = recipe_of(tmp_path, {"main": main_path(20, mixture=MIXTURE | {"switches": switches})})
    assert switch_steps(recipe, "main") == [5, 11]
    assert planned_samples(recipe, "main") == {"a": 5 * 6 + 9 * 8, "b": 5 * 2 + 6 * 8}
    phases = preview(recipe)["versions"][0]["phases"]
    assert [(phase["after_step"], phase["shares"]) for phase in phases] == [
        (0, {"a": 0.75, "b": 0.25}),
        (5, {"b": 1.0}),
        (11, {"a": 1.0}),
    ]


def test_replay_from_parents_is_foreseen(tmp_path):
    replay = {"sources": {"b": {}}, "replay": {"share": 0.25, "from_parents": True}}
    recipe = tiny_recipe(
        tmp_path, versions={"main": main_path(10), "next": update("main", 4, mixture=replay)}
    )
    assert consumed_before(recipe, "next") == {"a": 60, "b": 20}
    assert planned_samples(recipe, "next") == {"b": 24, "replay/a": 6, "replay/b": 2}


def test_a_branch_off_domains_in_turn_has_read_those_before_it_alone(tmp_path):
    in_turn = MIXTURE | {"domain_order": "given"}
    versions = {
        "main": main_path(20, mixture=in_turn),  # a: 15 steps, b: 5
        "early": branch(10, 4, mixture={"sources": {"b": {}}}),
        "late": branch(17, 4, mixture={"sources": {"b": {}}}),
        "on": branch(14, 4),
        "after": update("on", 2, mixture=in_turn | {"sources": {"b": {}, "a": {}}}),
    }
    recipe = recipe_of(tmp_path, versions)
    assert consumed_before(recipe, "early") == {"a": 80, "b": 0}
    assert streams_before(recipe, "late") == {"a": 0, "b": 16}
    assert planned_samples(recipe, "on") == {"a": 8, "b": 24}  # reads on where main stood
    assert consumed_before(recipe, "after") == {"a": 120, "b": 24}
    phases = dict(zip(versions, (version["phases"] for version in preview(recipe)["versions"])))
    assert [(phase["after_step"], phase["shares"]) for phase in phases["on"]] == [
        (0, {"a": 1}),
        (1, {"b": 1}),
    ]


def test_domains_in_an_order_that_data_decides_are_counted_once_the_plan_is_there(tmp_path):
    versions = {
        "main": main_path(20, mixture=MIXTURE | {"domain_order": "similarity"}),
        "v1": branch(4, 2),
        "next": update("main", 4),
    }
    recipe = recipe_of(tmp_path, versions)
    assert [is_foreseen(recipe, name) for name in versions] == [True, False, True]
    phases = [{"reason": "domain", "counts": {domain: 1}} for domain in ("b", "a")]
    write_json(tmp_path / "versions" / "main" / "plan" / "plan.json", {"phases": phases})
    assert is_foreseen(recipe, "v1")
    assert consumed_before(recipe, "v1") == {"a": 0, "b": 32}
    assert planned_samples(recipe, "v1") == {"a": 8, "b": 8}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_foreseen_of_a_branch_is_what_plans_take(data):
    """Against plans, at any step: a whole sample off a share at most, each time that shares begin and are left."""
    names = ["a", "b", "c"][: data.draw(st.integers(2, 3), "domains")]
    weights = {name: {"weight": data.draw(st.integers(1, 5), name)} for name in names}
    mixture = {"sources": weights, "max_repetition": 1e9}
    kind = data.draw(st.sampled_from(["given", "random", "switches"]))
    length, at = data.draw(st.integers(8, 40), "length"), data.draw(st.integers(1, 7), "at")
    if kind == "switches":
        half = {"at": 0.5, "sources": {names[0]: {"weight": 2}, "d": {}}}
        mixture |= {"switches": [half]}
    else:
        mixture |= {"domain_order": kind}
    if data.draw(st.booleans(), "replays"):
        mixture |= {"replay": {"share": 0.25, "sources": {"e": {}}}}
    own = data.draw(st.integers(1, 30), "own")
    again = data.draw(st.integers(1, own), "again")
    versions = {"main": main_path(length, mixture=mixture), "v1": branch(at, own)}
    versions["v2"] = branch(again, 3) | {"start": {"type": "branch", "parent": "v1", "step": again}}
    versions["v3"] = update("v2", 1, mixture={"sources": {"a": {}}})
    source = {"reader": {"type": "text", "path": "unused"}}
    recipe = tiny_recipe("unused", versions=versions, sources=dict.fromkeys("abcde", source))
    keys = planned_samples(recipe, "main")
    description = {
        "seed": recipe.seed,
        "seq_length": 32,
        "first_sample": 0,
        "num_samples": (at + own + 3 + length) * 8,
        "sources": {key: {"start": 0} for key in keys},
        "phases": phase_entries(recipe, "main", recipe.versions["main"].mixture, {}),
    }
    plan = make_plan(description)

    def taken(first, last):
        before, after = consumed_samples(plan, first * 8), consumed_samples(plan, last * 8)
        return {key: after[key] - before[key] for key in keys}

    exact = kind != "switches" and "replay" not in mixture
    tolerance = 0 if exact else 2 * len(description["phases"])
    for found, first, last in (
        (planned_samples(recipe, "main", at), 0, at),
        (planned_samples(recipe, "v1"), at, at + own),
        (planned_samples(recipe, "v2"), at + again, at + again + 3),
        (consumed_before(recipe, "v3"), 0, at + again + 3),
    ):
        expected = taken(first, last)
        assert sum(found.values()) == (last - first) * 8
        assert all(abs(found[key] - Fraction(expected[key])) <= tolerance for key in keys)


@pytest.mark.parametrize(("step", "phases"), [(9, [(0, "a"), (1, "b")]), (10, [(0, "b")]), (11, [(0, "b")])])
def test_a_branch_off_a_switch_is_in_the_phase_that_begins_there(tmp_path, step, phases):
    mixture = {"sources": {"a": {}}, "switches": [{"at_tokens": 10 * STEP, "sources": {"b": {}}}]}
    recipe = recipe_of(tmp_path, {"main": main_path(20, mixture=mixture), "v1": branch(step, 5)})
    found = [
        (first, [key for key, share in shares.items() if share])
        for first, shares in planned_phases(recipe, "v1")
    ]
    assert found == [(first, [key]) for first, key in phases]


def test_phases_that_training_added_are_those_of_the_newest_checkpoint_or_of_the_finished_version(tmp_path):
    assert appended_phases(VersionPaths(tmp_path)) == []
    phases = [{"first_sample": 8 * number, "counts": {"a": number}} for number in (5, 10, 15)]
    for number, step in enumerate((5, 10, 100)):
        path = tmp_path / "checkpoints" / f"step_{step:06d}"
        write_json(path / "state.json", {"step": step, "phases": phases[:number]})
        write_atomic(path / "_SUCCESS", "")
        assert appended_phases(VersionPaths(tmp_path)) == phases[:number]
    write_json(tmp_path / "version.json", {"phases": phases})
    assert appended_phases(VersionPaths(tmp_path)) == phases


CHOOSING = {"selection": {"k": 0.6, "score": "random"}}
REPLAYING = {"sources": {"a": {}}, "replay": {"share": 0.2, "sources": {"b": {}}}}


@pytest.mark.parametrize(
    ("share_of", "own", "reads_on", "counts"),
    [
        (
            "trained",
            {},
            True,
            (20, 3),
        ),  # mixture and selection are the parent's: 13% are read, 20% trained on
        ("trained", {"selection": {"k": 0.6, "score": "highest_loss"}}, True, (20, 3)),
        ("trained", {"selection": None}, False, (4, 1)),
        ("trained", {"selection": {"k": 0.3, "score": "random"}}, False, (40, 3)),
        ("read", {"selection": None}, True, (4, 1)),
        ("read", {"selection": {"k": 0.3, "score": "random"}}, True, (4, 1)),
    ],
)
def test_a_branch_reads_on_only_if_its_own_selection_asks_for_as_much_replay(
    tmp_path, share_of, own, reads_on, counts
):
    mixture = REPLAYING | {"replay": REPLAYING["replay"] | {"share_of": share_of}}
    versions = {"main": main_path(10, mixture=mixture) | CHOOSING, "on": branch(4, 6) | own}
    recipe = tiny_recipe(tmp_path, versions=versions)
    assert continues_parent(recipe, "on") == reads_on
    (_, shares), *others = planned_phases(recipe, "on")
    assert shares == {"a": Fraction(counts[0], sum(counts)), "replay/b": Fraction(counts[1], sum(counts))}
    assert not others
    shown = {version["name"]: version for version in preview(recipe)["versions"]}["on"]
    assert shown["replay_share"] == pytest.approx(counts[1] / sum(counts))
    k = recipe.versions["on"].selection.k if recipe.versions["on"].selection else 1
    assert shown["replay_share_trained"] == pytest.approx(counts[1] / (counts[1] + k * counts[0]))


def test_replay_from_parents_has_its_share_of_what_is_trained_on_too(tmp_path):
    replay = {"sources": {"b": {}}, "replay": {"share": 0.25, "from_parents": True}}
    versions = {"main": main_path(10), "next": update("main", 10, mixture=replay) | CHOOSING}
    shares = dict(planned_phases(tiny_recipe(tmp_path, versions=versions), "next"))[0]
    replayed = shares["replay/a"] + shares["replay/b"]
    assert replayed / (replayed + Fraction(3, 5) * shares["b"]) == Fraction(1, 4)
    assert shares["replay/a"] == 3 * shares["replay/b"]
