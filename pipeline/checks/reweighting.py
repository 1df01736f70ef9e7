"""Checks of shares that follow held-out perplexity."""

from collections.abc import Iterator

from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.plan.mixture import moving_groups
from perdure.pipeline.recipe import Recipe, Version

Problems = Iterator[Problem]


def reweighting(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that reweighting by perplexity keeps every share positive."""
    rule, where = version.mixture.reweight, f"versions.{name}.mixture.reweight"
    if rule is None:
        return
    sources = version.mixture.sources
    if version.mixture.switches:
        yield Problem(where, None, "cannot stand beside `switches`: both set the shares")
    if len(sources) < 2:
        yield Problem(where, None, "has no use: there is one new source")
    for source in rule.weights:
        if source not in sources:
            yield Problem(f"{where}.weights.{source}", source, f"no such new source{near(source, sources)}")
    largest = max(rule.weights.get(source, 1.0) for source in sources)
    if rule.alpha * largest >= 1:
        remedy = f"alpha times the largest weight ({largest:g}) should be below 1, to keep shares positive"
        yield Problem(f"{where}.alpha", rule.alpha, remedy)
    largest_group = max(map(len, moving_groups(version.mixture)))
    if rule.floor * largest_group >= 1:
        whose = "sources of a group" if rule.groups else "sources"
        yield Problem(
            f"{where}.floor", rule.floor, f"should be below 1/{largest_group}, for {largest_group} {whose}"
        )
    if rule.groups and len(sources) > 1 and largest_group < 2:
        yield Problem(f"{where}.groups", dict(rule.groups), "leave nothing to move: no group has two sources")
    seen: dict[str, str] = {}
    for group, named in rule.groups.items():
        for source in named:
            if source not in sources:
                remedy = f"no such new source{near(source, sources)}"
            elif source in seen:
                remedy = f"stands in `{seen[source]}` already; leave one out"
            else:
                seen[source] = group
                continue
            yield Problem(f"{where}.groups.{group}", source, remedy)
