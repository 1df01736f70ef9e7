"""The recipes by which versions were made, as recorded in their directories."""

from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from perdure.pipeline.core.errors import PerdureError, RecipeError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import hash_of_file
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import VersionInputs, read_inputs
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.lineage import ancestors, resolved_schedule
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.recipe import Recipe, Schedule, Version, load_recipe

DECIDING = ("seed", "model", "training")
"""Sections of a recipe that decide all of its versions."""


def recorded(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe that each version was made by.

    Of a version that has begun, that is the one in its directory, under today's directory; of one that waits, `as_recorded`.

    Args:
        recipe: Today's recipe.

    Returns:
        The versions of `as_recorded`, in its order.

    Raises:
        PerdureError: If a recorded recipe cannot be read.
    """
    begun = _begun(recipe)
    whole = _whole(recipe, begun)
    return {name: begun.get(name, whole) for name in whole.versions}


def as_recorded(recipe: Recipe) -> Recipe:
    """Today's recipe, with versions that have begun, and the sections that decide them, as recorded.

    An ancestor that today's recipe does not name any more stands before its first descendant; so does a source that a version
    was made of. Where versions were made under different seeds, models or training settings, those of the last one stand in it.

    Raises:
        PerdureError: If a recorded recipe cannot be read.
    """
    return _whole(recipe, _begun(recipe))


def recorded_recipe(directory: Path) -> Recipe | None:
    """The recipe recorded in a version's directory; None if the version has not begun.

    Raises:
        PerdureError: If it cannot be read.
    """
    paths = VersionPaths(directory).recipe, VersionPaths(directory).inputs
    if not all(path.exists() for path in paths):
        return None
    return _read(directory, tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in paths))


@lru_cache(maxsize=256)
def _read(directory: Path, _state: tuple) -> Recipe:
    recipe = version_recipe(directory)
    if "share_of" in VersionPaths(directory).recipe.read_text(encoding="utf-8"):
        return recipe
    # All fields are written out: before there was this one, the share of replay was that of the tokens read.
    versions = {name: _share_of_read(version) for name, version in recipe.versions.items()}
    return recipe.model_copy(update={"versions": versions})


def _share_of_read(version: Version) -> Version:
    if (replay := version.mixture.replay) is None:
        return version
    replay = replay.model_copy(update={"share_of": "read"})
    return version.model_copy(update={"mixture": version.mixture.model_copy(update={"replay": replay})})


def made_schedule(recipe: Recipe, name: str) -> Schedule:
    """A version's schedule with all that followed from its ancestors when it began; foreseen if it has not.

    Args:
        recipe: The one by which it was made, see `recorded`.
        name: The version.
    """
    version = recipe.paths.version(name)
    states = [path / "state.json" for path in version.finished_checkpoints().values()][-1:]
    for path in (version.record, *states):
        if path.exists() and (schedule := read_json(path).get("schedule")):
            return TypeAdapter(Schedule).validate_python(schedule)
    return resolved_schedule(recipe, name)


def _begun(recipe: Recipe) -> dict[str, Recipe]:
    """By version that has begun the recipe in its directory; also by the ancestors that today's recipe does not name."""
    found: dict[str, Recipe] = {}
    waiting = list(recipe.versions)
    for name in waiting:
        made = recorded_recipe(recipe.paths.version(name).directory)
        if made is not None and name in made.versions:
            found[name] = made.model_copy(update={"out": recipe.directory})
            for ancestor, _ in ancestors(made, name):
                if ancestor not in waiting:
                    waiting.append(ancestor)
                    found[ancestor] = found[name]  # until its own is found: its directory may be gone
    return found


def _whole(recipe: Recipe, begun: dict[str, Recipe]) -> Recipe:
    if not begun:
        return recipe
    versions: dict[str, Version] = {}
    sources = dict(recipe.sources)
    for name in recipe.versions:
        made = begun.get(name, recipe)
        if name in begun:
            for ancestor, _ in ancestors(made, name):
                if ancestor not in recipe.versions:
                    versions.setdefault(ancestor, begun[ancestor].versions[ancestor])
        versions[name] = made.versions[name]
    for name, made in begun.items():
        for domain, _ in members(made.versions[name].mixture).values():
            source = source_of(domain)
            if source in made.sources:
                sources.setdefault(source, made.sources[source])
    last = next(begun[name] for name in reversed(versions) if name in begun)
    deciding = {section: getattr(last, section) for section in DECIDING}
    return recipe.model_copy(update=deciding | {"versions": versions, "sources": sources})


def version_recipe(directory: Path, inputs: VersionInputs | None = None) -> Recipe:
    """The recipe that a version's (or an evaluation's) ranks read.

    Args:
        directory: The version's.
        inputs: Its `inputs.json`; None reads it.

    Raises:
        PerdureError: If it is not what `inputs.json` says that it was.
    """
    paths = VersionPaths(directory)
    path = paths.recipe
    if inputs is None and paths.inputs.exists():
        inputs = read_inputs(paths)
    recorded = None if inputs is None else inputs.get("recipe")
    if recorded and hash_of_file(path) != recorded:
        raise PerdureError(f"{path}: damaged: no longer what was prepared; {remedy(path)}")
    try:
        return load_recipe(path)
    except RecipeError as error:
        raise PerdureError(f"{path}: {error.problems[0]}; {remedy(path)}") from None
