"""Checks of mixtures that need no files."""

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks import mixtures
from perdure.pipeline.checks.finished import against_data, repetition
from perdure.pipeline.checks.pools import pool_repetition
from perdure.pipeline.plan.forecast import planned_samples

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


def replaying(steps: int, limit: float = 4, branched: int = 0, **first) -> list[str]:
    """What `against_data` says of a version that replays, on every other sample, four steps of `a`; or of a branch of it."""
    plain = {"sources": {"a": {}}, "max_repetition": 100}
    mixture = {"sources": {"b": {}}, "replay": {"share": 0.5, "from_parents": True}, "max_repetition": limit}
    update = {"start": {"type": "update", "parent": "v1"}}
    versions = {"v1": main_path(4, plain | first), "main": main_path(steps, mixture) | update}
    if branched:
        versions["jan"] = branch(steps, branched)
    recipe = tiny_recipe("unused", versions=versions)
    return [str(problem) for problem in against_data(recipe)]


def test_a_pool_that_would_repeat_too_often_is_known_on_paper():
    assert not replaying(32) and not replaying(60, limit=7.5)
    (problem,) = replaying(60)
    assert (
        "4.0: replay would repeat what the ancestors trained on 7.5 times (7,680 tokens of 1,024)" in problem
    )
    assert not replaying(60, sources={"a": {}, "b": {}}, reweight={"interval": STEP, "alpha": 0.5})


def test_a_branch_counts_what_its_parent_replayed():
    assert not replaying(32)
    (problem,) = replaying(32, branched=2)
    assert "versions.jan.mixture" in problem and "4.2 times" in problem


def test_what_ancestors_took_counts_in_how_often_a_source_repeats():
    """Three steps are 24 samples, and a source of 640 tokens has 20: 1.2 epochs a version."""
    mixture = {"sources": {"a": {}}, "max_repetition": 2.4}
    versions = {"v1": main_path(3, mixture)}
    for number in (2, 3):
        start = {"start": {"type": "update", "parent": f"v{number - 1}"}}
        versions[f"v{number}"] = main_path(3, mixture) | start
    recipe = tiny_recipe("unused", versions=versions)
    counts = {"a": {"train": {"tokens": 640, "documents": 9}}}
    said = [list(repetition(counts, recipe, name, recipe.versions[name])) for name in versions]
    assert [len(found) for found in said] == [0, 0, 1]
    assert "`a` would repeat 3.6 times (768 tokens of 640 after its ancestors)" in str(said[2][0])


def test_a_pool_is_no_larger_than_its_source():
    recipe = tiny_recipe(
        "unused",
        versions={
            "v1": main_path(4, {"sources": {"a": {}}}),
            "main": main_path(8, {"sources": {"b": {}}, "replay": {"share": 0.5, "from_parents": True}})
            | {"start": {"type": "update", "parent": "v1"}},
        },
    )
    for tokens, said in ((10**6, []), (255, []), (192, ["5.3 times (1,024 tokens of 192)"])):
        finished = {"a": {"train": {"tokens": tokens, "documents": 9}}}
        found = pool_repetition(finished, recipe, "main", recipe.versions["main"])
        assert [str(problem).partition("trained on ")[2].partition(";")[0] for problem in found] == said


def test_buckets_of_a_switch_need_an_order_that_has_any():
    def said(member: dict) -> list[str]:
        mixture = {"sources": {"a": {}}, "switches": [{"at": 0.5, "sources": {"b": member}}]}
        mixture["perplexity_model"] = "./model"
        return problems(tiny_recipe("unused", versions={"main": main_path(20, mixture)}), "main")

    where = "versions.main.mixture.switches.0.sources.b.buckets = 10"
    assert any(
        line.startswith(f"{where}: has no use with `order: shuffled`") for line in said({"buckets": 10})
    )
    assert not any("buckets" in line for line in said({"buckets": 10, "order": "easy_to_hard"}))
