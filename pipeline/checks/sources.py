"""Checks of sources and of the output directory."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.checks.hints import missing, near_package
from perdure.pipeline.errors import Problem
from perdure.pipeline.recipe import (
    HuggingFaceReader,
    PythonCodeReader,
    PythonDocsReader,
    Recipe,
    Source,
    TextReader,
)
from perdure.pipeline.sizes import document_files

Problems = Iterator[Problem]


def source(name: str, source: Source) -> Problems:
    """Files, packages and libraries that a reader needs."""
    where, reader = f"sources.{name}.reader", source.reader
    if isinstance(reader, PythonDocsReader | PythonCodeReader):
        for number, package in enumerate(reader.packages):
            if package != "stdlib" and not _installed(package):
                yield Problem(
                    f"{where}.packages.{number}",
                    package,
                    f"no such package is installed{near_package(package)}",
                )
    elif isinstance(reader, HuggingFaceReader):
        if importlib.util.find_spec("datasets") is None:
            yield Problem(
                f"{where}.type", reader.type, "needs the package `datasets`: install `perdure[hub]`"
            )
        if reader.path.startswith(("/", "./", "../", "~")) and not Path(reader.path).is_dir():
            yield missing(f"{where}.path", Path(reader.path), "directory")
    elif not reader.path.exists():
        yield missing(f"{where}.path", reader.path, "file or directory")
    elif not document_files(reader):
        pattern = reader.glob if isinstance(reader, TextReader) else f"*.{reader.type}"
        yield Problem(f"{where}.path", str(reader.path), f"holds no file that matches {pattern}")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a dotted name whose parent is missing; an empty or relative one
        return False


def output(recipe: Recipe) -> Problems:
    """An output directory that can be written."""
    directory = recipe.directory.absolute()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir():
        yield Problem("out", str(recipe.directory), f"{existing} is a file; should be a directory")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Problem(
            "out", str(recipe.directory), f"no permission to write in {existing}; choose another --out"
        )
