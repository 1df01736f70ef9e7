"""A version's path from the initial model, as rows of the loss matrix: what its metrics look at."""

from dataclasses import dataclass

from perdure.pipeline.domains import source_of
from perdure.pipeline.evaluate import metrics
from perdure.pipeline.lineage import ancestors, parent_of
from perdure.pipeline.mixture import is_replayed, members
from perdure.pipeline.plan import num_steps
from perdure.pipeline.recipe import HuggingFaceModel, Recipe


@dataclass(frozen=True)
class Path:
    """Where a version comes from.

    Attributes:
        row: The version's row in the loss matrix; row 0 is the initial model.
        parent: The row of what it started from.
        rows: From row 0 through its measured ancestors to its own.
        learned: Per source when it joined the path, see `metrics.learned_at`.
    """

    row: int
    parent: int
    rows: list[int]
    learned: list[int | None]


def paths(recipe: Recipe) -> dict[str, Path]:
    """The path of every version of a recipe."""
    parents = {name: _measured_parent(recipe, name) for name in recipe.versions}
    rows = {name: row for row, name in enumerate(recipe.versions, start=1)}
    found = {}
    for name, version in recipe.versions.items():
        along = metrics.lineage(parents, name)
        parent = parent_of(version)
        learned = metrics.learned_at(
            list(recipe.sources),
            [_new_sources(recipe, member) for member in along],
            pretrained=isinstance(recipe.model, HuggingFaceModel),
        )
        found[name] = Path(
            rows[name], rows[parent] if parent else 0, [0, *(rows[member] for member in along)], learned
        )
    return found


def _new_sources(recipe: Recipe, name: str) -> list[str]:
    places = members(recipe.versions[name].mixture)
    return [source_of(domain) for key, (domain, _) in places.items() if not is_replayed(key)]


def _measured_parent(recipe: Recipe, name: str) -> str | None:
    """The nearest ancestor that a version trained on from its end, where it was measured: branches leave before."""
    for ancestor, steps in reversed(ancestors(recipe, name)):
        if steps == num_steps(recipe, recipe.versions[ancestor]):
            return ancestor
    return None
