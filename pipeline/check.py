"""Preflight: everything that types cannot judge about a recipe, found at once, before anything starts."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from perdure.pipeline.checks import cleaning, mixtures, model, schedules, scoring, sources, versions
from perdure.pipeline.errors import Problem, RecipeError
from perdure.pipeline.lenient import BrokenField, lenient_recipe
from perdure.pipeline.recipe import Recipe, read_tree, structural_problems


def load_checked(
    path: Path | str,
    overrides: list[str] | tuple[str, ...] = (),
    out: Path | None = None,
    site: Path | None = None,
) -> Recipe:
    """Reads a recipe that is ready to run; arguments as for `read_tree`.

    Raises:
        RecipeError: With all mistakes, of types and of sense alike.
    """
    tree = read_tree(path, overrides, out, site)
    if found := tree_problems(tree):
        raise RecipeError(str(path), found)
    return Recipe.model_validate(tree)


def tree_problems(tree: dict) -> list[Problem]:
    """All mistakes, of types and of sense alike, of what `read_tree` returns."""
    if structural := structural_problems(tree):
        return structural + problems(lenient_recipe(tree), whole=False)
    return problems(Recipe.model_validate(tree))


def problems(recipe: Recipe, whole: bool = True) -> list[Problem]:
    """All mistakes of sense in a recipe.

    Args:
        recipe: A recipe, or one from `lenient_recipe`.
        whole: Whether it has no broken part; else checks that need one are passed over.
    """
    found: list[Problem] = []
    for check in _checks(recipe):
        try:
            for problem in check():
                found.append(problem)
        except BrokenField:
            continue  # its own mistake is listed already
    if whole and not any(problem.path.startswith("versions.") for problem in found):
        found += mixtures.repetition(recipe)
    return found


def _checks(recipe: Recipe) -> list[Callable[[], Iterator[Problem]]]:
    """One callable each, so that a broken part costs no more than the checks that need it."""
    checks: list[Callable[[], Iterator[Problem]]] = [
        partial(check, recipe)
        for check in (sources.output, sources.tasks, sources.executor, scoring.windows, *model.CHECKS)
    ]
    if isinstance(recipe.sources, dict):
        checks += [
            partial(check, name, source)
            for name, source in recipe.sources.items()
            for check in (sources.source, cleaning.cleaning, cleaning.labels)
        ]
    if isinstance(recipe.versions, dict):
        checks += [
            partial(check, recipe, name, version)
            for name, version in recipe.versions.items()
            for check in (*versions.CHECKS, *mixtures.CHECKS, *schedules.CHECKS)
        ]
    return checks
