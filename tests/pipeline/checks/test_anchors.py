"""Mistakes in a version's anchor."""

import json

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.check import problems
from perdure.pipeline.checks.finished import fisher_samples
from perdure.pipeline.plan.identity import deciding_fields
from perdure.pipeline.recipe import Recipe
from tests.pipeline.checks.template import found

PARENT = {"type": "update", "parent": "v1"}
ANCHOR = "versions.update.anchor"
"""In the template, whose `update` has a peak rate of 1e-3 and a parent `base`."""


@pytest.mark.parametrize(
    ("anchor", "field", "remedy"),
    [
        ("{type: l2, strength: 1001}", "strength", "is 1.001: a step would pull weights beyond"),
        ("{type: l2, strength: -1}", "strength", "greater than or equal to 0"),
        ("{type: l2, strength: .inf}", "strength", "finite number"),
        ("{type: l2}", "strength", "required"),
        ("{type: l1, strength: 1}", "type", "fisher"),
        ("{type: fisher, strength: 1, estimate: {examples: 5, source: pros}}", "estimate.source", "`prose`?"),
        (
            "{type: fisher, strength: 1, estimate: {examples: 0, source: prose}}",
            "estimate.examples",
            "greater",
        ),
        ("{type: fisher, strength: 1, estimate: moment}", "estimate", "moments, or {examples: N"),
        ("{type: fisher, strength: 1, estimate: {examples: 5}}", "estimate.source", "required"),
        ("{type: kl, on: replay}", "on", "'replayed'"),
        ("{type: kl}", "on", "required"),
        ("{type: kl, on: all, weight: -1}", "weight", "greater than or equal to 0"),
        ("{type: kl, on: all, instead_of_loss: true}", "instead_of_loss", "`on: replayed`"),
        ("{type: kl, on: all, model: bas}", "model", "`base`?"),
        ("{type: kl, on: all, model: update}", "model", "earlier"),
    ],
)
def test_mistakes_are_told_in_one_line(anchor, field, remedy):
    problems = {
        path.removeprefix(f"{ANCHOR}."): said for path, (_, said) in found(f"{ANCHOR}={anchor}").items()
    }
    assert len(problems) == 1 and remedy in problems[field]


@pytest.mark.parametrize(
    "anchor",
    [
        "{type: l2, strength: 1000}",
        "{type: fisher, strength: 1e12}",
        "{type: fisher, strength: 1, estimate: {examples: 5, source: prose}}",
        "{type: kl, on: all, weight: 10, model: base}",
        "{type: kl, on: replayed, instead_of_loss: true}",
    ],
)
def test_what_is_right_is_no_problem(anchor):
    assert found(f"{ANCHOR}={anchor}") == {}


def test_nothing_is_compared_where_nothing_is_replayed():
    replayed, without = f"{ANCHOR}={{type: kl, on: replayed}}", "versions.update.mixture.replay=null"
    assert "replays nothing" in found(replayed, without)[f"{ANCHOR}.on"][1]
    assert found(f"{ANCHOR}={{type: kl, on: all}}", without) == {}


def test_random_weights_are_nothing_to_hold_on_to():
    assert (
        "random weights" in found("versions.base.anchor={type: l2, strength: 1}")["versions.base.anchor"][1]
    )


def test_a_decay_is_asked_for_the_rate_that_it_begins_with():
    """`base` ends at 1e-4, where the decay begins."""
    decay = "versions.update.schedule={type: decay}"
    assert found(decay, f"{ANCHOR}={{type: l2, strength: 10_000}}") == {}
    assert (
        "at most 10000" in found(decay, f"{ANCHOR}={{type: l2, strength: 10_001}}")[f"{ANCHOR}.strength"][1]
    )
    without = found("versions.base.schedule={type: decay}", "versions.base.anchor={type: l2, strength: 1}")
    assert "no parent" in without["versions.base.schedule.max_lr"][1]


def lineage(out, anchor: dict | None, start: dict) -> Recipe:
    versions = tiny_recipe(out).model_dump(mode="json")["versions"]
    return tiny_recipe(out, versions=versions | {"v2": versions["v1"] | {"start": start, "anchor": anchor}})


@pytest.mark.parametrize(
    ("start", "steps"),
    [(PARENT, [20]), ({"type": "branch", "parent": "v1", "step": 5}, [5, 20])],
)
def test_moments_need_the_checkpoint_that_they_are_of(tmp_path, start, steps):
    recipe = lineage(tmp_path, {"type": "fisher", "strength": 1.0}, start)
    parent = recipe.paths.version("v1")

    def told() -> list[str]:
        return [
            p.remedy for p in problems(recipe, with_data=False) if p.path == "versions.v2.anchor.estimate"
        ]

    assert told() == []  # it will be made
    for step in steps:
        parent.checkpoint(step).mkdir(parents=True)
        (parent.checkpoint(step) / "_SUCCESS").touch()
    parent.directory.joinpath("_SUCCESS").touch()
    assert told() == []
    (parent.checkpoint(steps[0]) / "_SUCCESS").unlink()
    assert len(told()) == 1 and f"after step {steps[0]} is gone" in told()[0] and "examples" in told()[0]
    recipe.paths.version("v2").directory.mkdir(parents=True)
    recipe.paths.version("v2").directory.joinpath("_SUCCESS").touch()
    assert told() == []  # it was used


@pytest.mark.parametrize(
    ("anchor", "strength"), [({"type": "l2"}, "strength"), ({"type": "kl", "on": "all"}, "weight")]
)
def test_strength_0_is_the_version_without_an_anchor(tmp_path, anchor, strength):
    plain, zero, pulled = (
        json.dumps(deciding_fields(lineage(tmp_path, chosen, PARENT), "v2"), sort_keys=True)
        for chosen in (None, anchor | {strength: 0}, anchor | {strength: 0.5})
    )
    assert plain == zero != pulled
    assert "anchor" not in plain  # as it was before there were anchors


def test_no_more_samples_are_asked_for_than_the_source_has(tmp_path):
    """3,200 tokens are 100 samples of 32."""

    def told(examples: int) -> list[str]:
        estimate = {"examples": examples, "source": "a"}
        recipe = lineage(tmp_path, {"type": "fisher", "strength": 1.0, "estimate": estimate}, PARENT)
        counts = {"a": {"train": {"tokens": 3200}}}
        return [str(problem) for problem in fisher_samples(counts, recipe, "v2", recipe.versions["v2"])]

    assert told(100) == []
    assert told(101) == [
        "versions.v2.anchor.estimate.examples = 101: `a` has only 100 samples of 32 tokens; should be at most that"
    ]
