"""Warnings with their sources: where a choice is warned of, and where the same recipe without it is not."""

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.advice import advice


def warnings(merge: dict, **updates: dict) -> list[str]:
    """Of a recipe with a base, updates of it with some fields, and a merge."""
    base = tiny_recipe("unused").model_dump(mode="json")["versions"]["v1"]
    versions = {"base": base}
    versions |= {
        name: base | {"start": {"type": "update", "parent": "base"}} | fields
        for name, fields in updates.items()
    }
    versions["merged"] = {"start": {"type": "merge"} | merge, "tokens": 0}
    return advice(tiny_recipe("unused", versions=versions))


@pytest.mark.parametrize(("kind", "warned"), [("l2", True), ("fisher", False)])
def test_a_merge_of_what_an_anchor_held(kind, warned):
    merge = {"weights": {"base": 0.2, "new": 0.8}}
    told = warnings(merge, new={"anchor": {"type": kind, "strength": 1.0}})
    assert len(told) == warned
    if warned:
        assert (
            "versions.merged: merges new, which has an anchor of type l2" in told[0]
            and "2309.06256" in told[0]
        )
    assert warnings(merge, new={}) == []


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_differences_of_specialists_that_were_trained_side_by_side(method):
    merge = {"weights": {"law": 0.5, "sea": 0.5}, "base": "base", "method": method}
    (told,) = warnings(merge, law={}, sea={})
    assert f"versions.merged: {method} of law, sea" in told and "2403.08763" in told
    chain = {"start": {"type": "update", "parent": "law"}}
    assert warnings(merge, law={}, sea=chain) == []
    assert warnings({"weights": {"law": 0.5, "sea": 0.5}}, law={}, sea={}) == []


def adapted(rank: int, old: str, new: str, cleaned: dict[str, str]) -> list[str]:
    """Of a recipe whose base reads one domain and whose adapter another; cleaning keeps languages by source."""
    recipe = tiny_recipe("unused").model_dump(mode="json")
    source = next(iter(recipe["sources"].values()))
    sources = {
        name: source | {"clean": [{"type": "language", "keep": [cleaned[name]]}] if name in cleaned else []}
        for name in ("a", "b")
    }
    base = recipe["versions"]["v1"]
    adapter = {"type": "lora", "rank": rank, "alpha": 1}
    versions = {
        "base": base | {"mixture": {"sources": {old: {}}}},
        "new": base
        | {
            "start": {"type": "update", "parent": "base"},
            "adapter": adapter,
            "mixture": {"sources": {new: {}}},
        },
    }
    return advice(tiny_recipe("unused", sources=sources, versions=versions))


@pytest.mark.parametrize(
    ("rank", "old", "new", "cleaned", "warned"),
    [
        (16, "a@en", "b@de", {}, "de"),
        (16, "a", "b", {"a": "en", "b": "de"}, "de"),
        (256, "a@en", "a@de", {}, "de"),
        (257, "a@en", "b@de", {}, None),
        (16, "a@en", "b@en", {}, None),
        (16, "a", "b@de", {}, None),  # nobody says what the base read
        (16, "a@en", "b", {}, None),
    ],
)
def test_an_adapter_of_low_rank_for_a_new_language(rank, old, new, cleaned, warned):
    told = adapted(rank, old, new, cleaned)
    assert len(told) == (warned is not None)
    if warned:
        assert f"versions.new: an adapter of rank {rank} for {warned}, new here" in told[0]
        assert "2405.09673" in told[0]
