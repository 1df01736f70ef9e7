"""What published evidence says against a recipe's choices: warnings with their sources, no mistakes."""

from perdure.pipeline.plan.domains import parse
from perdure.pipeline.plan.lineage import ancestors
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.recipe import LanguageIdentification, Merge, Recipe

AVERAGING = (
    "Lin et al. 2024 (arXiv 2309.06256) found L2 penalties and distillation inside the frontier of model averaging; compare "
    "with a merge of an update without an anchor"
)
SPECIALISTS = (
    "merges of separately trained specialists were far below training with replay where both were measured (Ibrahim et al. "
    "2024, arXiv 2403.08763, table 6); compare with one update that replays"
)
HIGHEST_RANK = 256
"""The highest rank of the measurements that `LOW_RANK` is of."""
LOW_RANK = (
    "in continued pre-training low-rank adapters learned less than training all weights, at ranks 16, 64 and 256 (Biderman et "
    "al. 2024, arXiv 2405.09673), and a new language changes much; compare with an update of all weights"
)


def advice(recipe: Recipe) -> list[str]:
    """Warnings of `perdure check` for all versions, one line each."""
    found = []
    for name, version in recipe.versions.items():
        lines = _new_languages(recipe, name)
        if isinstance(version.start, Merge):
            lines += [*_anchored(recipe, version.start), *_specialists(recipe, version.start)]
        found += [f"versions.{name}: {line}" for line in lines]
    return found


def _anchored(recipe: Recipe, start: Merge) -> list[str]:
    """Merged versions that an anchor held near their parent."""
    anchors = {name: anchor for name in start.models if (anchor := recipe.versions[name].anchor)}
    return [
        f"merges {name}, which has an anchor of type {anchor.type}: {AVERAGING}"
        for name, anchor in anchors.items()
        if anchor.type != "fisher"
    ]


def _specialists(recipe: Recipe, start: Merge) -> list[str]:
    """Sums of differences of versions that were trained side by side, none of them from another."""
    if start.method == "linear":
        return []
    apart = [name for name in start.named if not _above(recipe, name) & set(start.named)]
    return [f"{start.method} of {', '.join(apart)}: {SPECIALISTS}"] if len(apart) > 1 else []


def _new_languages(recipe: Recipe, name: str) -> list[str]:
    """Languages that an adapter of low rank learns and no ancestor read, as far as recipes name languages."""
    adapter, above = recipe.versions[name].adapter, _above(recipe, name)
    if adapter is None or adapter.rank > HIGHEST_RANK:
        return []
    old: set[str] = set().union(*(_languages(recipe, ancestor) for ancestor in above))
    new = sorted(_languages(recipe, name) - old) if old else []
    return [f"an adapter of rank {adapter.rank} for {', '.join(new)}, new here: {LOW_RANK}"] if new else []


def _languages(recipe: Recipe, name: str) -> set[str]:
    """Languages of what a version reads: of parts of sources by name, or those that the source's cleaning keeps."""
    found: set[str] = set()
    for domain, _ in members(recipe.versions[name].mixture).values():
        source, language, *_ = parse(domain)
        if language:
            found.add(language)
        elif source in recipe.sources:
            for step in recipe.sources[source].clean:
                found |= set(step.keep or ()) if isinstance(step, LanguageIdentification) else set()
    return found


def _above(recipe: Recipe, name: str) -> set[str]:
    return {ancestor for ancestor, _ in ancestors(recipe, name)}
