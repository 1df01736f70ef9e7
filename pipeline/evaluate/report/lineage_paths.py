"""A version's path from the initial model as rows of the loss matrix, and the metrics along it."""

import math
from dataclasses import dataclass

import numpy as np

from perdure.pipeline.evaluate import metrics
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.forecast import planned_samples
from perdure.pipeline.plan.lineage import ancestors
from perdure.pipeline.plan.mixture import is_replayed, members
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import HuggingFaceModel, Recipe


@dataclass(frozen=True)
class LineagePath:
    """A version's ancestors, as rows of the loss matrix.

    Attributes:
        row: The version's row in the loss matrix; row 0 is the initial model.
        members: The versions on its path: its ancestors, the oldest first, and itself.
        steps: Of each of its ancestors, those that lead to the next version.
        rows: Row 0, then that of each member. None is an ancestor that was left before its end: no row is what it was then.
        left_at: The step of its parent after which it left, if that is before the parent's end; else None.
        learned: Per source when it joined the path, see `metrics.learned_at`.
    """

    row: int
    members: list[str]
    steps: list[int]
    rows: list[int | None]
    left_at: int | None
    learned: list[int | None]

    @property
    def parent(self) -> int | None:
        """The row of what it started from."""
        return self.rows[-2]


def paths(sources: list[str], recipes: dict[str, Recipe]) -> dict[str, LineagePath]:
    """The path of every version.

    Args:
        sources: The columns of `LineagePath.learned`.
        recipes: By version the recipe that it was made by, see `perdure.pipeline.plan.recorded`.
    """
    numbers = {name: row for row, name in enumerate(recipes, start=1)}
    known: dict[str, set[str]] = {
        name: set(sources) if isinstance(recipe.model, HuggingFaceModel) else set()
        for name, recipe in recipes.items()
    }
    for name, recipe in recipes.items():
        for ancestor, _ in ancestors(recipe, name):
            known[ancestor] -= set(_new_sources(recipe, name))
    found = {}
    for name, row in numbers.items():
        before = ancestors(recipes[name], name)
        left = {
            member: steps
            for member, steps in before
            if steps < num_steps(recipes[member], recipes[member].versions[member])
        }
        along = [*(member for member, _ in before), name]
        new = [
            _sources_until(recipes[member], member, left[member])
            if member in left
            else _new_sources(recipes[member], member)
            for member in along
        ]
        found[name] = LineagePath(
            row,
            along,
            [steps for _, steps in before],
            [0, *(None if member in left else numbers[member] for member in along)],
            left.get(before[-1][0]) if before else None,
            metrics.learned_at(sources, new, known[name]),
        )
    return found


def learned_sources(sources: list[str], path: LineagePath) -> list[str]:
    """Those of a path's sources that joined it."""
    return [source for source, row in zip(sources, path.learned) if row is not None]


def _new_sources(recipe: Recipe, name: str) -> list[str]:
    places = members(recipe.versions[name].mixture)
    return [source_of(domain) for key, (domain, _) in places.items() if not is_replayed(key)]


def _sources_until(recipe: Recipe, name: str, steps: int) -> list[str]:
    """The new sources that a version reads in its first steps; later phases may add others."""
    taken = planned_samples(recipe, name, steps)
    return [source_of(key) for key, samples in taken.items() if samples and not is_replayed(key)]


def losses_along(path: LineagePath, losses: np.ndarray, starts: dict[str, np.ndarray]) -> np.ndarray:
    """The losses of every model on a path, float64 [rows of the path, domains].

    Where an ancestor was left before its end, they are what the next version was measured at before its first step.

    Args:
        path: The path.
        losses: The loss matrix.
        starts: By version its losses before its first step, NaN where nothing was measured.
    """
    # The version itself, in the last row, was not left: it has a row.
    return np.stack(
        [starts[path.members[place]] if row is None else losses[row] for place, row in enumerate(path.rows)]
    )


def bases(
    paths: dict[str, LineagePath], losses: np.ndarray, starts: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """By version the losses of what it started from, NaN where nothing was measured; see `losses_along`."""
    return {name: losses_along(path, losses, starts)[-2] for name, path in paths.items()}


def path_metrics(
    paths: dict[str, LineagePath], sources: list[str], losses: np.ndarray, starts: dict[str, np.ndarray]
) -> dict[str, dict]:
    """The metrics of every measured version along its path; see `losses_along`.

    They are means over whole sources: a document that counts with its source does not count with its topic again. A metric
    that needs losses at a place where an ancestor was left, and nothing was measured, is NaN as a whole.
    """
    keys = ("acc", "bwt", "bwt_trace", "general", "fwt", "fwt_gem", "forgetting")
    found: dict[str, dict] = {key: {} for key in keys}
    for name, path in paths.items():
        if np.isnan(losses[path.row]).all():
            continue
        own, learned = losses_along(path, losses, starts)[:, : len(sources)], path.learned
        rises = metrics.forgetting(own, learned)
        known = rises[~np.isnan(rises)]
        hidden = _hidden(path, own, 0)
        found["acc"][name] = metrics.average_accuracy(own, learned)
        found["bwt"][name] = math.nan if hidden else metrics.backward_transfer(own, learned)
        found["bwt_trace"][name] = math.nan if hidden else metrics.trace_backward_transfer(own, learned)
        found["general"][name] = metrics.general_change(own, learned)
        found["fwt"][name] = metrics.forward_transfer(own, learned)
        found["fwt_gem"][name] = (
            math.nan if _hidden(path, own, 1) else metrics.gem_forward_transfer(own, learned)
        )
        found["forgetting"][name] = {
            "mean": math.nan if hidden or not known.size else known.mean(),
            "domains": {domain: rise for domain, rise in zip(sources, rises) if not np.isnan(rise)},
        }
    return found


def _hidden(path: LineagePath, own: np.ndarray, before: int) -> bool:
    """Whether a loss is missing at a row where an ancestor was left, `before` rows above the one that learned its domain."""
    return any(
        path.rows[row - before] is None and np.isnan(own[row - before, column])
        for column, row in enumerate(path.learned)
        if row is not None and row > before
    )
