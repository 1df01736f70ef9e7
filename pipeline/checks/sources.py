"""Checks of sources, of how they are worked on, and of the output directory."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.checks.open_files import files_needed
from perdure.pipeline.checks.sizes import document_files
from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.hints import missing, near, near_package
from perdure.pipeline.core.open_files import allow_open_files
from perdure.pipeline.data.read.inputs import reads_below
from perdure.pipeline.data.read.rows import first_fields
from perdure.pipeline.data.stage import other_tasks
from perdure.pipeline.recipe import (
    HuggingFaceReader,
    JsonlReader,
    ParquetReader,
    PythonCodeReader,
    PythonDocsReader,
    RayTasks,
    Reader,
    Recipe,
    Source,
)

Problems = Iterator[Problem]
OWN = tuple((name,) for name in "clean contents data leaks logs report subset topics versions work".split())
"""Directories of a run, by their parts."""


def source(name: str, source: Source) -> Problems:
    """Checks that the files, packages and libraries of a reader are there."""
    where, reader = f"sources.{name}.reader", source.reader
    if isinstance(reader, PythonDocsReader | PythonCodeReader):
        for number, package in enumerate(reader.packages):
            if _reason(reader.model_copy(update={"packages": [package]})):
                remedy = f"no such package is installed{near_package(package)}"
                yield Problem(f"{where}.packages.{number}", package, remedy, absent=True)
        return
    if isinstance(reader, HuggingFaceReader) and importlib.util.find_spec("datasets") is None:
        remedy = "needs the package `datasets`: install `perdure[hub]`"
        yield Problem(f"{where}.type", reader.type, remedy, absent=True)
    local = not isinstance(reader, HuggingFaceReader) or reader.path.startswith(("/", "."))
    if local and not Path(reader.path).exists():
        yield missing(f"{where}.path", Path(reader.path), "file or directory")
    elif reason := _reason(reader):
        yield Problem(f"{where}.path", str(reader.path), reason.removeprefix(f"{reader.path}: "))
    elif isinstance(reader, JsonlReader | ParquetReader):
        yield from _fields(where, reader)


def _fields(where: str, reader: JsonlReader | ParquetReader) -> Problems:
    """The field with the text, and those of `where`, among those that the first documents of some files have."""
    try:
        fields = first_fields(reader)
    except PerdureError as error:
        yield Problem(f"{where}.path", str(reader.path), str(error).removeprefix(f"{reader.path}: "))
        return
    if fields is None:
        yield Problem(f"{where}.path", str(reader.path), "no JSON lines: should hold one object a line")
    texts = ["messages_field", "tools_field"] if reader.messages_field else ["text_field"]
    if reader.chosen_field:
        texts = ["prompt_field", "chosen_field", "rejected_field"]
    if fields and "metadata" not in fields:  # which has fields of its own
        texts += ["repository_field", "path_field"]
    for option in texts:
        name = getattr(reader, option)
        if fields and name is not None and name not in fields:
            yield Problem(f"{where}.{option}", name, f"no document has this field{near(name, fields)}")
    if fields and "metadata" not in fields:  # which has fields of its own
        for name in sorted(reader.where.keys() - fields):
            yield Problem(f"{where}.where", name, f"no document has this field{near(name, fields)}")


def _reason(reader: Reader) -> str | None:
    """Why a reader's files cannot be found, if they cannot."""
    try:
        document_files(reader)
    except PerdureError as error:
        return str(error)
    return None


def tasks(recipe: Recipe) -> Problems:
    """Checks that `data.tasks` matches the cleaned sources that exist already."""
    try:
        found = other_tasks(recipe)
    except PerdureError:  # an input is missing, which has a problem of its own
        return
    if found:
        number = next(iter(found.values()))
        yield Problem(
            "data.tasks",
            recipe.data.tasks,
            f"{recipe.directory} holds {', '.join(found)} in {number} parts; set it back to {number}, or choose another "
            "--out",
        )


def open_files(recipe: Recipe) -> Problems:
    """As many parts as a process may hold open: all shards of a version's sources, or a merge of all tasks' files."""
    allowed, needed = allow_open_files(), files_needed(recipe)
    if allowed < needed:
        yield Problem(
            "data.tasks",
            recipe.data.tasks,
            f"a process will hold up to {needed:,} files open, {allowed:,} are allowed here (`ulimit -Hn`): raise the "
            "limit, or choose fewer tasks",
            absent=True,
        )


def executor(recipe: Recipe) -> Problems:
    """Checks that Ray is installed where it is asked for."""
    where = recipe.data.executor
    if isinstance(where, RayTasks) and importlib.util.find_spec("ray") is None:
        yield Problem("data.executor.type", where.type, "needs the package `ray`: install `perdure[ray]`")


def output(recipe: Recipe) -> Problems:
    """Checks that the output directory can be written."""
    directory = recipe.directory.absolute()
    existing = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    if not existing.is_dir():
        what = "a file" if existing.exists() else "a link that leads nowhere"
        yield Problem("out", str(recipe.directory), f"{existing} is {what}; should be a directory")
    elif not os.access(existing, os.W_OK | os.X_OK):
        remedy = f"no permission to write in {existing}; choose another --out"
        yield Problem("out", str(recipe.directory), remedy, absent=True)


def nested(recipe: Recipe) -> Problems:
    """Checks that neither sources nor output directory lie in one another."""
    for name, source in recipe.sources.items():
        path = getattr(source.reader, "path", None)
        if not isinstance(path, Path):
            continue
        if reads_below(source.reader, recipe.directory):
            remedy = f"should not lie in {path}: source `{name}` would read what is written there; choose another --out"
            yield Problem("out", str(recipe.directory), remedy)
        place, out = Path(os.path.realpath(path)), Path(os.path.realpath(recipe.directory))
        if place.is_relative_to(out) and place.relative_to(out).parts[:1] in OWN:
            remedy = f"should lie outside of {recipe.directory}, where a run keeps, replaces and removes files of its own"
            yield Problem(f"sources.{name}.reader.path", str(path), remedy)
