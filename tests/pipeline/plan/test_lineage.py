"""What versions inherit: schedules, steps to keep, and the cost of branches."""

import re
from pathlib import Path

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.preview import preview
from perdure.pipeline.core.files import write_atomic
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.plan.lineage import (
    ancestors,
    continues_parent,
    kept_steps,
    missing_checkpoint,
    models_needed,
    resolved_schedule,
    steps_before,
)
from perdure.pipeline.plan.schedule import path_switching_cost
from perdure.pipeline.recipe import Version
from tests.pipeline.plan.paths import MIXTURE, STEP, branch, main_path, recipe_of, update


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
        "objective": {"type": "instruct"},
        "weight_decay": 0.01,
        "keep": [3],
        "adapter": {"type": "lora", "rank": 2, "alpha": 4},
        "anchor": {"type": "l2", "strength": 0.1},
        "elastic_reset": {"interval": 5, "ema": 0.5},
        "reptile": {"interval": 5, "rate": 0.5},
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
    elsewhere = tmp_path / "every"
    elsewhere.mkdir()
    every = recipe_of(elsewhere, {"main": main_path(10, keep={"every": 4}), "v1": branch(3, 2)})
    assert kept_steps(every, "main") == {3, 4, 8}
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


def test_a_branch_reads_on_under_another_max_repetition_but_not_in_another_order(tmp_path):
    given = MIXTURE | {"domain_order": "given"}
    versions = {
        "main": main_path(10, mixture=given),
        "same": branch(4, 2, mixture=given | {"max_repetition": 101}),
        "turned": branch(4, 2, mixture=given | {"sources": dict(reversed(MIXTURE["sources"].items()))}),
    }
    recipe = recipe_of(tmp_path, versions)
    assert continues_parent(recipe, "same") and not continues_parent(recipe, "turned")


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


def test_a_merge_has_its_first_parents_path_and_no_steps(tmp_path):
    mixture = {"sources": {"a": {}}}
    common = {"tokens": 32 * 8 * 4, "mixture": mixture}
    cosine = {"type": "cosine", "max_lr": 0.01, "min_lr": 0.002}
    recipe = tiny_recipe(
        tmp_path,
        versions={
            "base": common | {"start": {"type": "init"}, "schedule": cosine},
            "update": common
            | {"start": {"type": "update", "parent": "base"}, "schedule": cosine | {"min_lr": 0.001}},
            "merged": {"start": {"type": "merge", "weights": {"base": 0.5, "update": 0.5}}, "tokens": 0},
            "after": common
            | {"start": {"type": "update", "parent": "merged"}, "schedule": {"type": "decay"}},
        },
    )
    assert models_needed(recipe.versions["merged"]) == ["base", "update"]
    assert ancestors(recipe, "after") == [("base", 4), ("merged", 0)]
    assert steps_before(recipe, "after") == 4
    assert resolved_schedule(recipe, "after").max_lr == pytest.approx(0.002)  # where `base` ended
    assert resolved_schedule(recipe, "merged") == recipe.versions["base"].schedule
