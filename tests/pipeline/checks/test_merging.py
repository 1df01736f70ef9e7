"""What `check` says of versions that are merged from others."""

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_recipe

from perdure.pipeline.checks.merging import alike
from perdure.pipeline.core.manifest import finish
from tests.pipeline.checks.template import found

MERGE = "versions.merged={start: {type: merge, %s}, tokens: 0}"
WEIGHTS = "weights: {base: 0.2, update: 0.8}"
START = "versions.merged.start"


@pytest.mark.parametrize(
    "start",
    [
        WEIGHTS,
        "weights: {base: -0.5, update: 1.5}",
        "weights: {base: 0.3, update: 0.7}, blocks: 2, parent_share: [0.5, 0.1]",
        "weights: {update: 1}, method: task_arithmetic, base: base, scale: 0.5",
        "weights: {update: 2, base: 1}, method: ties, base: base, density: 0.2",
    ],
)
def test_a_merge_needs_no_mixture_and_no_schedule(start):
    assert found(MERGE % start) == {}


@pytest.mark.parametrize(
    ("start", "path", "remedy"),
    [
        ("weights: {}", "weights", "required: the share of each version"),
        ("weights: {base: 0.2, update: 0.7}", "weights", "sum to 0.9; should sum to 1"),
        ("weights: {base: 0.2, updat: 0.8}", "weights.updat", "did you mean `update`?"),
        ("weights: {base: 0.2, merged: 0.8}", "weights.merged", "this version itself"),
        ("weights: {updat: 0.2, base: 0.8}", "weights.updat", "did you mean `update`?"),
        ("weights: {merged: 0.2, base: 0.8}", "weights.merged", "this version itself"),
        (f"{WEIGHTS}, base: base", "base", "no use with `method: linear`"),
        (f"{WEIGHTS}, scale: 2", "scale", "no use with `method: linear`"),
        (f"{WEIGHTS}, method: ties, base: base", "density", "required by `method: ties`"),
        (f"{WEIGHTS}, method: task_arithmetic", "base", "required by `method: task_arithmetic`"),
        ("weights: {update: -1}, method: ties, base: base, density: 1", "weights.update", "greater than 0"),
        (f"{WEIGHTS}, blocks: 2, parent_share: [1]", "parent_share", "should have 2 shares"),
        (f"{WEIGHTS}, parent_share: [1]", "parent_share", "should have 0 shares"),
        (f"{WEIGHTS}, blocks: 9, parent_share: [1, 1, 1, 1, 1, 1, 1, 1, 1]", "blocks", "at most 4"),
        ("weights: {base: 1}, blocks: 1, parent_share: [1]", "weights", "should name two versions, names 1"),
        ("versions: [base, update]", "fitted", "required by `versions`"),
        ("versions: [base, update], fitted: {old: prosa}", "fitted.old", "did you mean `prose`?"),
        ("versions: [base, update], fitted: {old: prose, new: prose}", "fitted.new", "already"),
        (f"{WEIGHTS}, fitted: {{old: prose}}", "weights", "what `fitted` finds"),
        (f"versions: [base, update], {WEIGHTS}, fitted: {{old: prose}}", "versions", "beside `weights`"),
    ],
)
def test_a_merge_that_cannot_be_made(start, path, remedy):
    assert remedy in found(MERGE % start)[f"{START}.{path}"][1]


@pytest.mark.parametrize(
    ("overrides", "path", "remedy"),
    [
        (["versions.merged.tokens=100"], "tokens", "should be 0: a version by `merge` does not train"),
        (["versions.merged.mixture={sources: {code: {}}}"], "mixture", "does not train; leave it out"),
        (["versions.merged.schedule={type: constant, max_lr: 1}"], "schedule", "leave it out"),
        (["versions.merged.weight_decay=0"], "weight_decay", "leave it out"),
        (["versions.merged.selection={score: random}"], "selection", "leave it out"),
    ],
)
def test_what_does_not_train_has_no_fields_of_training(overrides, path, remedy):
    problems = found(MERGE % WEIGHTS, *overrides)
    assert remedy in problems[f"versions.merged.{path}"][1]


def test_what_trains_has_a_budget():
    assert found("versions.update.tokens=0") == {
        "versions.update.tokens": (0, "should be greater than 0: a version by `update` trains")
    }


def test_a_merge_has_no_moments_and_no_steps_to_go_on_from():
    after = "versions.after={start: {type: %s, parent: merged%s}, tokens: 100000, mixture: {sources: {code: {}}}, "
    after += "schedule: {type: constant, max_lr: 0.001}}"
    kept = found(MERGE % WEIGHTS, after % ("update", ", moments: keep"))
    assert "is a merge, which has weights and no moments" in kept["versions.after.start.moments"][1]
    left = found(MERGE % WEIGHTS, after % ("branch", ", step: 3"))
    assert "is a merge, which has no steps" in left["versions.after.start.step"][1]
    assert found(MERGE % WEIGHTS, after % ("update", "")) == {}
    fisher = "versions.after.anchor={type: fisher, strength: 1}"
    held = found(MERGE % WEIGHTS, after % ("update", ""), fisher)
    assert "is a merge, which has no moments of AdamW" in held["versions.after.anchor.estimate"][1]


def test_finished_parents_that_cannot_be_summed_are_named(tmp_path):
    common = {
        "tokens": 4096,
        "mixture": {"sources": {"a": {}}},
        "schedule": {"type": "constant", "max_lr": 0.01},
    }
    recipe = tiny_recipe(
        tmp_path,
        versions={
            "base": common | {"start": {"type": "init"}},
            "update": common | {"start": {"type": "update", "parent": "base"}},
            "merged": {"start": {"type": "merge", "weights": {"base": 0.5, "update": 0.5}}, "tokens": 0},
        },
    )
    merged = recipe.versions["merged"]
    assert list(alike(recipe, "merged", merged)) == []  # nothing is there yet
    tensors = {
        "base": {"w": torch.zeros(2)},
        "update": {"w": torch.zeros(2), "lm_head.weight": torch.zeros(2)},
    }
    for name, own in tensors.items():
        version = recipe.paths.version(name)
        version.export.mkdir(parents=True)
        save_file(own, version.export / "model.safetensors")
        finish(version.directory, {})
    (problem,) = alike(recipe, "merged", merged)
    assert problem.path == "versions.merged.start" and problem.value == "update"
    assert problem.remedy == (
        "cannot be merged with `base`: it has a head of its own, and the other one does not"
    )
