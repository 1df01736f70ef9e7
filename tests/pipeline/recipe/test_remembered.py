"""What is remembered of a lineage is what would be told without, in little time however long the lineage is."""

from time import process_time

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.check import problems
from perdure.pipeline.plan import forecast, lineage
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.remembered import remembering

NAMES = (
    "ancestors steps_before resolved_schedule planned_phases consumed_before streams_before expected_mixture is_foreseen"
).split()


def chain(out, length: int, start: str) -> Recipe:
    """A first version, and `length` more, each from the one before."""
    tree = tiny_recipe(out).model_dump(mode="json", exclude={"cluster"})
    first = tree["versions"]["v1"]
    replay = {"share": 0.1, "from_parents": True}
    mixture = {"sources": {"b": {"order": "given"}}, "replay": replay, "max_repetition": 1e9}
    for number in range(2, length + 2):
        parent = {"type": start, "parent": f"v{number - 1}"} | ({"step": 2} if start == "branch" else {})
        own = {} if start == "branch" and number % 3 else {"mixture": mixture}
        schedule = (
            {"type": "decay"} if number % 2 else {"type": "autoregressive", "max_lr": 0.01, "min_lr": 0.001}
        )
        tree["versions"][f"v{number}"] = {
            "start": parent,
            "tokens": first["tokens"],
            "schedule": schedule,
            "mixture": first["mixture"],
        } | own
    return Recipe.model_validate(tree)


@pytest.mark.parametrize("start", ["update", "branch"])
def test_answers_are_those_without_remembering(tmp_path, start):
    recipe = chain(tmp_path, 6, start)
    apart = {
        (ask, name): getattr(lineage if hasattr(lineage, ask) else forecast, ask)(recipe, name)
        for ask in NAMES
        for name in recipe.versions
    }
    with remembering():
        assert apart == {
            (ask, name): getattr(lineage if hasattr(lineage, ask) else forecast, ask)(recipe, name)
            for ask, name in apart
        }
    taken = {
        name: forecast.planned_samples(recipe, name, 20 if start == "update" else 2)
        for name in recipe.versions
    }
    for number, name in enumerate(recipe.versions):  # summed by hand
        before = list(taken.values())[:number]
        keys = {key for samples in before for key in samples}
        assert apart["consumed_before", name] == {
            key: sum(samples.get(key, 0) for samples in before) for key in keys
        }


@pytest.mark.parametrize("start", ["update", "branch"])
def test_a_thousand_versions(tmp_path, start):
    recipe, before = chain(tmp_path, 1_000, start), process_time()
    found = {problem.path for problem in problems(recipe)}
    assert not {path for path in found if path.startswith("versions.")}
    assert lineage.steps_before(recipe, "v1001") == 1_000 * (20 if start == "update" else 2)
    assert forecast.streams_before(recipe, "v1001")["a"] >= 0
    assert process_time() - before < 20


def test_nothing_is_kept_once_nobody_asks(tmp_path):
    """Plans on disk change what is known of an order by similarity."""
    with remembering() as known:
        lineage.ancestors(chain(tmp_path, 2, "update"), "v3")
        assert known
    with remembering() as known:
        assert not known
