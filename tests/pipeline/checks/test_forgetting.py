"""What a version that forgets needs, and what cannot stand beside it, by name."""

from pathlib import Path

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.check import load_checked
from perdure.pipeline.checks.forgetting import CHECKS, read_again
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import RecipeSource

PACKED = {"packing": "best_fit"}
REPLAY = {"share": 0.5, "from_parents": True}


def problems(objective=None, mixture=None, version=None, **training) -> dict[str, tuple]:
    """Path -> (value, remedy) of a version that forgets `a` beside replay, with changes."""
    schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
    both = {"tokens": 32 * 8 * 4, "schedule": schedule}
    own = {
        "start": {"type": "update", "parent": "base"},
        "objective": {"type": "forget", "source": "a"} | (objective or {}),
        "mixture": {"sources": {"a": PACKED}, "replay": REPLAY} | (mixture or {}),
    }
    versions = {
        "base": both | {"start": {"type": "init"}, "mixture": {"sources": {"a": {}, "b": {}}}},
        "forgetful": both | own | (version or {}),
    }
    changes = {f"training__{name}": value for name, value in training.items()}
    recipe = tiny_recipe("unused", versions=versions, **{"training__document_mask": True} | changes)
    return {
        problem.path.removeprefix("versions.forgetful."): (problem.value, problem.remedy)
        for check in CHECKS
        for name in versions
        for problem in check(recipe, name, recipe.versions[name])
    }


def test_a_version_that_forgets_is_in_order():
    assert (
        problems()
        == problems({"method": "simnpo", "beta": 2})
        == problems({"method": "graddiff", "gamma": 0.5})
        == {}
    )


def test_what_it_needs():
    assert problems({"source": "c"})["objective.source"] == (
        "c",
        "is not in `mixture.sources`; there is `a`",
    )
    found = problems(mixture={"sources": {"a": {}}, "replay": None})
    assert found["mixture.sources"] == (
        "a",
        "nothing is retained beside it, so that the model would be lost; name other sources, or `replay`",
    )
    assert found["mixture.sources.a.packing"] == (
        None,
        "forgets whole documents; set it to `best_fit` or `next_fit`",
    )
    assert problems(document_mask=False)["training.document_mask"][1].startswith(
        "should be true: `forgetful` forgets"
    )
    assert (
        "which `start: {type: init}` has not; use an `update`, or `simnpo`"
        in (problems(version={"start": {"type": "init"}})["objective.method"][1])
    )
    assert problems({"method": "graddiff", "beta": 0.1}) == {
        "objective.beta": (0.1, "has no use with `graddiff`")
    }


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("selection", {"version": {"selection": {"k": 0.5, "score": "random"}}}),
        ("anchor", {"version": {"anchor": {"type": "kl", "on": "all"}}}),
        ("mixture.reweight", {"mixture": {"reweight": {"interval": 100, "alpha": 0.1}}}),
        ("mixture.domain_order", {"mixture": {"sources": {"a": PACKED, "b": {}}, "domain_order": "given"}}),
    ],
)
def test_what_cannot_stand_beside_it_is_named(field, changes):
    (remedy,) = [remedy for _, remedy in problems(**changes).values()]
    assert list(problems(**changes)) == [field] and remedy.startswith(
        "cannot stand beside `objective: {type: forget}`"
    )


def test_anchors_of_weights_can_stand_beside_it_and_a_penalty_of_log_z_cannot():
    assert problems(version={"anchor": {"type": "l2", "strength": 0.1}}) == {}
    assert list(problems(z_loss=1e-4)) == ["training.z_loss"]


def test_a_part_of_a_source_cannot_be_forgotten():
    found = problems({"source": "a[2023-01..2023-03]"}, {"sources": {"a[2023-01..2023-03]": PACKED}})
    value, remedy = found["objective.source"]
    assert value == "a[2023-01..2023-03]" and remedy.startswith("a part of a source cannot be forgotten")


def test_what_is_forgotten_is_not_read_again_by_name():
    """The recipe alone decides it, of the version itself and of those that start from it."""
    told = "this version, or one that it comes from, forgets all of its documents; leave it out"
    assert problems(mixture={"replay": {"share": 0.5, "sources": {"a": {}, "b": {}}}}) == {
        "mixture.replay.sources.a": ("a", told)
    }
    schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
    child = {"start": {"type": "update", "parent": "forgetful"}, "tokens": 32 * 8, "schedule": schedule}
    anchor = {"type": "fisher", "strength": 1, "estimate": {"examples": 3, "source": "a"}}
    base = child | {"start": {"type": "init"}, "mixture": {"sources": {"a": {}, "b": {}}}}
    forgetful = child | {
        "start": {"type": "update", "parent": "base"},
        "objective": {"type": "forget", "source": "a"},
        "mixture": {"sources": {"a": PACKED}, "replay": REPLAY},
    }
    versions = {"base": base, "forgetful": forgetful}
    versions["child"] = child | {"mixture": {"sources": {"a/topic": {}, "b": {}}}, "anchor": anchor}
    versions["well"] = child | {"mixture": {"sources": {"b": {}}, "replay": REPLAY}}
    recipe = tiny_recipe("unused", versions=versions, training__document_mask=True)
    found = [
        (each.path, each.remedy)
        for name in versions
        for each in read_again(recipe, name, recipe.versions[name])
    ]
    assert found == [
        ("versions.child.mixture.sources.a/topic", told),
        ("versions.child.anchor.estimate.source", told),
    ]


@pytest.mark.parametrize(
    "mistake",
    [
        "versions.forgetful.objective.method=ga",
        "versions.forgetful.objective.beta=0",
        "versions.forgetful.objective.source=privat",
    ],
)
def test_a_mistake_of_the_objective_is_no_mistake_of_its_exact_reference(mistake):
    recipe = Path(__file__).parents[3] / "data_recipes" / "forget.yaml"
    with pytest.raises(RecipeError) as refused:
        load_checked(RecipeSource(recipe, (mistake,)))
    paths = [problem.path for problem in refused.value.problems]
    assert mistake.partition("=")[0] in paths and not [path for path in paths if "exact" in path]
