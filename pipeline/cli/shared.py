"""What the commands share: loading a recipe, naming a version, writing results.

Imports stand inside functions where they would make `perdure --help` slow.
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.pipeline.core.errors import PerdureError, Problem, RecipeError
from perdure.pipeline.core.files import write_atomic
from perdure.pipeline.core.hints import near
from perdure.pipeline.core.manifest import disk_errors

if TYPE_CHECKING:
    from perdure.pipeline.recipe import Recipe, RecipeSource

logger = logging.getLogger(__name__)


def recipe_source(options: argparse.Namespace) -> "RecipeSource":
    """What the command line says of where a recipe is and what to change in it."""
    from perdure.pipeline.recipe import RecipeSource

    return RecipeSource(options.recipe, options.set, options.out, getattr(options, "site", None))


def ready_recipe(options: argparse.Namespace) -> "Recipe":
    """Loads the recipe, checked: it is ready to run."""
    from perdure.pipeline.checks.check import load_checked

    return load_checked(recipe_source(options))


def existing_recipe(options: argparse.Namespace) -> "Recipe":
    """Loads the recipe of a run that exists; its sources may be gone."""
    from perdure.pipeline.checks.check import load_lineage

    return load_lineage(recipe_source(options))


def known_version(recipe: "Recipe", source: Path, name: str, option: str = "--version") -> str:
    """Returns the name of a version, and refuses one that the recipe does not have."""
    if name not in recipe.versions:
        remedy = f"no such version{near(name, recipe.versions)}"
        raise RecipeError(str(source), [Problem(option, name, remedy)])
    return name


def recipe_disk_errors(recipe: "Recipe") -> Any:
    """Turns errors of the file system below the run's directory into readable ones."""
    return disk_errors(recipe.directory)


def write_new(path: Path, content: str) -> None:
    """Writes a file that must not exist yet."""
    if path.exists():
        raise PerdureError(f"{path} exists already; choose another name or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise PerdureError(f"{path}: cannot be written ({error.strerror})") from None
    logger.info(f"wrote {path}")


def write_page(path: Path, page: str) -> None:
    """Writes a page of HTML beside what is printed."""
    with disk_errors(path):
        write_atomic(path, page)
    logger.info(f"wrote {path}")
