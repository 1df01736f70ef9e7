"""Checks of mixtures that need no files."""

import pytest

from perdure.pipeline.checks import mixtures
from perdure.pipeline.lineage import planned_samples
from tests.support import tiny_recipe

STEP = 32 * 8
"""Tokens of a step."""
COSINE = {"type": "cosine", "max_lr": 0.01, "min_lr": 0.0001}


def main_path(steps: int, mixture: dict) -> dict:
    return {"start": {"type": "init"}, "tokens": STEP * steps, "mixture": mixture, "schedule": COSINE}


def branch(step: int, steps: int) -> dict:
    start = {"type": "branch", "parent": "main", "step": step}
    return {"start": start, "tokens": STEP * steps, "schedule": {"type": "decay", "min_lr": 0.002}}


def problems(recipe, name: str) -> list[str]:
    version = recipe.versions[name]
    return [str(problem) for check in mixtures.CHECKS for problem in check(recipe, name, version)]


@pytest.mark.parametrize("when", [{"at_tokens": STEP * 10}, {"at_lr": 0.5}, {"at": 0.5}])
def test_a_branch_has_its_parents_switches_at_its_parents_steps(when):
    mixture = {"sources": {"a": {}}, "switches": [when | {"sources": {"b": {}}}], "max_repetition": 100}
    recipe = tiny_recipe("unused", versions={"main": main_path(20, mixture), "jan": branch(8, 6)})
    assert not problems(recipe, "main") and not problems(recipe, "jan")
    assert planned_samples(recipe, "jan") == {"a": 8 * 2, "b": 8 * 4}  # steps 8 to 10, and 10 to 14


def test_a_short_branch_may_be_in_few_of_its_parents_domains():
    mixture = {"sources": {"a": {}, "b": {}}, "domain_order": "given"}
    recipe = tiny_recipe("unused", versions={"main": main_path(20, mixture), "jan": branch(8, 1)})
    assert not problems(recipe, "jan")
    assert planned_samples(recipe, "jan") == {"a": 8, "b": 0}
