"""What published evidence says against a recipe's choices: warnings with their sources, no mistakes."""

from perdure.pipeline.plan.lineage import ancestors
from perdure.pipeline.recipe import Merge, Recipe

AVERAGING = (
    "Lin et al. 2024 (arXiv 2309.06256) found L2 penalties and distillation inside the frontier of model averaging; compare "
    "with a merge of an update without an anchor"
)
SPECIALISTS = (
    "merges of separately trained specialists were far below training with replay where both were measured (Ibrahim et al. "
    "2024, arXiv 2403.08763, table 6); compare with one update that replays"
)


def advice(recipe: Recipe) -> list[str]:
    """Warnings of `perdure check` for all versions, one line each."""
    return [
        f"versions.{name}: {line}"
        for name, version in recipe.versions.items()
        if isinstance(version.start, Merge)
        for line in (*_anchored(recipe, version.start), *_specialists(recipe, version.start))
    ]


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


def _above(recipe: Recipe, name: str) -> set[str]:
    return {ancestor for ancestor, _ in ancestors(recipe, name)}
