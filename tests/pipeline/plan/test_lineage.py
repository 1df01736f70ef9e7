"""What versions inherit: schedules, steps to keep, planned consumption, and the cost of branches."""

import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.pipeline.checks.preview import preview
from perdure.pipeline.core.files import write_atomic, write_json
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.plan.lineage import (
    ancestors,
    appended_phases,
    consumed_before,
    continues_parent,
    is_foreseen,
    kept_steps,
    missing_checkpoint,
    planned_phases,
    planned_samples,
    resolved_schedule,
    streams_before,
    switch_steps,
)
from perdure.pipeline.plan.plan import consumed_samples, make_plan
from perdure.pipeline.plan.planning import _phases
from perdure.pipeline.plan.schedule import learning_rate, path_switching_cost
from perdure.pipeline.recipe import Version
from tests.support import tiny_recipe

STEP = 32 * 8
"""Tokens of a step."""
CONSTANT = {"type": "constant", "max_lr": 0.01, "warmup": 0}
MIXTURE = {"sources": {"a": {"weight": 3}, "b": {}}, "max_repetition": 100}


def recipe_of(out, versions: dict):
    reader = {"reader": {"type": "text", "path": str(out / "text")}}
    (out / "text").mkdir()
    (out / "text" / "some.txt").write_text("some text " * 100)
    return tiny_recipe(out, versions=versions, sources={"a": reader, "b": reader})


def main_path(steps: int, **changes) -> dict:
    start = {"start": {"type": "init"}, "tokens": STEP * steps, "mixture": MIXTURE, "schedule": CONSTANT}
    return start | changes


def branch(step: int, steps: int, **changes) -> dict:
    start = {"type": "branch", "parent": "main", "step": step}
    return {"start": start, "tokens": STEP * steps, "schedule": {"type": "decay"}} | changes


def update(parent: str, steps: int, **changes) -> dict:
    return main_path(steps) | {"start": {"type": "update", "parent": parent}} | changes


def test_a_branch_inherits_everything_but_the_schedule_unless_it_has_its_own(tmp_path):
    selection = {"k": 0.5, "reference": "./x"}
    versions = {
        "main": main_path(10, selection=selection, weight_decay=0.01),
        "same": branch(4, 2),
        "own": branch(4, 2, mixture={"sources": {"b": {}}}, selection=None, weight_decay=None),
        "next": update("same", 2),
    }
    recipe = recipe_of(tmp_path, versions)
    main, same, own, later = recipe.versions.values()
    assert (same.weight_decay, own.weight_decay, later.weight_decay) == (0.01, None, None)
    assert same.mixture == main.mixture and same.selection == main.selection
    assert list(own.mixture.sources) == ["b"] and own.selection is None


def test_what_a_branch_inherits_is_what_the_guide_says(tmp_path):
    """Every field of a version stands in the guide's table, and its word for a branch is what a branch gets."""
    own = {
        "selection": {"k": 0.5, "score": "random"},
        "weight_decay": 0.01,
        "keep": [3],
        "mixture": MIXTURE | {"max_repetition": 7},
    }
    named = {"start", "tokens", "schedule"}
    assert own.keys() | named == Version.model_fields.keys()
    recipe = recipe_of(tmp_path, {"main": main_path(10, **own), "same": branch(4, 2)})
    main, same = recipe.versions.values()
    text = (Path(__file__).parents[3] / "docs" / "guide.md").read_text()
    rows = dict(re.findall(r"^\| (`[a-z_`, ]+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE))
    told = {field: words for fields, words in rows.items() for field in re.findall(r"[a-z_]+", fields)}
    for field in Version.model_fields:
        inherited = field in own and getattr(same, field) == getattr(main, field)
        assert told[field].startswith("its parent's") == inherited, field
        assert (told[field] == "must be named") == (field in named), field
        if told[field] == "none":
            assert getattr(same, field) == Version.model_fields[field].default
    for field, without in (("selection", None), ("weight_decay", None)):
        assert f"`{field}: null`" in told[field]
        tree = {"main": main_path(10, **own), "none": branch(4, 2, **{field: without})}
        assert getattr(tiny_recipe(tmp_path, versions=tree).versions["none"], field) is None


def test_steps_along_a_path_of_branches_and_updates(tmp_path):
    versions = {"main": main_path(10, keep=[3, 9]), "v1": branch(4, 2), "v2": update("v1", 5)}
    recipe = recipe_of(tmp_path, versions)
    assert ancestors(recipe, "v2") == [("main", 4), ("v1", 2)]
    assert kept_steps(recipe, "main") == {3, 4, 9}
    assert kept_steps(recipe, "v1") == set()
    lineage_tokens = [version["lineage_tokens"] for version in preview(recipe)["versions"]]
    assert lineage_tokens == [10 * STEP, 6 * STEP, 11 * STEP]


def test_schedules_are_resolved_along_the_lineage(tmp_path):
    round_ = {"type": "autoregressive", "max_lr": 0.01, "min_lr": 0.001, "warmup": 0}
    versions = {
        "main": main_path(10),
        "v1": branch(4, 2),
        "v2": update("v1", 5, schedule={"type": "decay"}),
        "r0": main_path(10, schedule=round_),
        "r1": update("r0", 10, schedule=round_),
    }
    recipe = recipe_of(tmp_path, versions)
    assert resolved_schedule(recipe, "v1").max_lr == 0.01  # the main path's
    assert resolved_schedule(recipe, "v2").max_lr == pytest.approx(1e-4)  # a hundredth, where v1 ended
    assert resolved_schedule(recipe, "v2").min_lr == pytest.approx(1e-6)
    assert resolved_schedule(recipe, "r0").max_lr == pytest.approx(0.01)
    assert resolved_schedule(recipe, "r1").max_lr == pytest.approx(
        0.0055
    )  # half-way down the cosine of 20 steps


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_branches_cost_what_the_paper_says(tmp_path, count):
    """Each version brings 10 steps' data; its branch trains on the last 6 of them."""
    versions = {"main": main_path(10 * count - 6)}
    versions |= {f"v{i}": branch(10 * i - 6, 6) for i in range(1, count + 1)}
    total = preview(recipe_of(tmp_path, versions))["total"]
    assert total["branches_from_scratch_steps"] == 10 * count * (count + 1) // 2
    assert total["branches_cost"] == pytest.approx(path_switching_cost(count, 0.6))


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
        "phases": _phases(recipe, "main", recipe.versions["main"].mixture, {}),
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


def test_a_branch_reads_on_under_another_max_repetition_but_not_in_another_order(tmp_path):
    given = MIXTURE | {"domain_order": "given"}
    versions = {
        "main": main_path(10, mixture=given),
        "same": branch(4, 2, mixture=given | {"max_repetition": 101}),
        "turned": branch(4, 2, mixture=given | {"sources": dict(reversed(MIXTURE["sources"].items()))}),
    }
    recipe = recipe_of(tmp_path, versions)
    assert continues_parent(recipe, "same") and not continues_parent(recipe, "turned")


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


def test_a_checkpoint_that_will_never_be_is_named_with_those_that_are(tmp_path):
    recipe = recipe_of(tmp_path, {"main": main_path(20), "v1": branch(7, 2)})
    directory, start = tmp_path / "versions" / "main", recipe.versions["v1"].start
    assert missing_checkpoint(recipe, start) is None  # the main path has not begun
    for step in (5, 6):
        write_atomic(directory / "checkpoints" / f"step_{step:06d}" / "_SUCCESS", "")
    assert missing_checkpoint(recipe, start) is None  # it comes there yet
    write_atomic(directory / "checkpoints" / "step_000010" / "_SUCCESS", "")
    reason = missing_checkpoint(recipe, start)
    assert reason.startswith("main has no checkpoint of step 7") and "those of steps 5, 6, 10." in reason
    write_atomic(directory / "checkpoints" / "step_000007" / "_SUCCESS", "")
    assert missing_checkpoint(recipe, start) is None
    assert list(VersionPaths(directory).finished_checkpoints()) == [5, 6, 7, 10]


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
