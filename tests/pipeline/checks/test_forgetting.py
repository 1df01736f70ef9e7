"""What a version that forgets needs, and what cannot stand beside it, by name."""

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.forgetting import CHECKS

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
