"""Input files of readers and their fingerprints, found without importing the packages they name."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.inputs_once import of_inputs
from perdure.pipeline.data.read.files import files_below, not_read, reaches
from perdure.pipeline.data.read.modules import python_modules

Found = TypeVar("Found")

EDGE = 64 * 1024
"""Bytes of a file's beginning and of its end that enter its fingerprint."""
PACKED = ("", ".gz", ".zst", ".zstd", ".xz", ".bz2", ".lz4")
"""Endings of files by how they are compressed, if they are."""


def once_for(kind: str, sections: Sequence[BaseModel], make: Callable[[], Found]) -> Found:
    """The result of `make` on the input files of sections of a recipe, see `of_inputs`."""
    try:
        key = kind, *(section.model_dump_json() for section in sections)
    except PydanticSerializationError:  # of a recipe with broken fields, see `checks/lenient.py`
        return make()
    return of_inputs(key, make)


def fingerprint(reader: recipe.Reader) -> dict[str, str | int]:
    """Describes a reader's input, and says what the description covers; kept in a scope of `inputs_read_once`.

    Raises:
        PerdureError: If the input does not exist.
    """
    return once_for("fingerprint", [reader], lambda: _fingerprint(reader))


def _fingerprint(reader: recipe.Reader) -> dict[str, str | int]:
    if isinstance(reader, recipe.PythonDocsReader | recipe.PythonCodeReader):
        modules = python_modules(reader.packages)
        versions = {module.package: module.version for module in modules}
        return {
            "packages": ", ".join(f"{name} {version or ''}".strip() for name, version in versions.items()),
            "files": len(modules),
            "hash": hash_of([(module.name, module.path.stat().st_size) for module in modules] + [versions]),
            "covers": "names and versions of the packages, names and sizes of their modules",
        }
    if (found := read_files(reader)) is None:
        assert isinstance(reader, recipe.HuggingFaceReader)
        return {
            "dataset": f"{reader.path} {reader.config or ''} {reader.split}",
            "covers": "the dataset's name, configuration and split; not its content on the hub",
        }
    folder, files = found
    parts = [(file, (folder / file).stat().st_size, edges(folder / file)) for file in files]
    return {
        "files": len(files),
        "bytes": sum(size for _, size, _ in parts),
        "hash": hash_of(parts),
        "covers": "relative names, sizes, and the first and last 64 KiB of each file; once it was read, all of it where its "
        "time of modification has changed",
    }


def read_files(reader: recipe.Reader) -> tuple[Path, list[str]] | None:
    """A folder and the names of the files in it that a reader reads; None for packages and for datasets on the hub.

    Raises:
        PerdureError: If the input does not exist.
    """
    match reader:
        case recipe.PythonDocsReader() | recipe.PythonCodeReader():
            return None
        case recipe.HuggingFaceReader():
            directory = huggingface_on_disk(reader)
            return None if directory is None else (directory, _saved_files(directory))
        case _:
            folder, files = input_files(reader)
            return Path(folder), files


def input_files(
    reader: recipe.JsonlReader | recipe.ParquetReader | recipe.TextReader,
) -> tuple[str, list[str]]:
    """The folder of a reader's files and their names relative to it, sorted; links are followed.

    It is listed once in a scope of `inputs_read_once`.

    Raises:
        PerdureError: If there is no such file or directory, no fitting file in it, or a link that leads nowhere.
    """
    folder, files = once_for("files", [reader], lambda: _list_files(reader))
    return folder, list(files)


def _list_files(
    reader: recipe.JsonlReader | recipe.ParquetReader | recipe.TextReader,
) -> tuple[str, list[str]]:
    path = reader.path
    if path.is_file():
        return str(path.parent), [path.name]
    if not path.is_dir():
        kind = "a device or pipe" if path.exists() else "no such file or directory"
        raise PerdureError(f"{path}: {kind}; correct the reader's `path`")
    globs, any_case = _globs(reader)
    files = files_below(path, globs, any_case)
    if not files:
        there = not_read(path, globs, any_case, files)
        wanted = " or ".join(globs[: len(globs) // len(PACKED) or 1]) + ", compressed or not" * (
            len(globs) > 2
        )
        raise PerdureError(
            f"{path}: no file fits {wanted}; correct the reader's `path`{f' ({there})' if there else ''}"
        )
    return str(path), files


def _globs(reader: recipe.JsonlReader | recipe.ParquetReader | recipe.TextReader) -> tuple[list[str], bool]:
    """Patterns of the file names that a reader reads in a directory, and whether case is ignored."""
    match reader:
        case recipe.JsonlReader():
            return [f"**/*{ending}{packed}" for packed in PACKED for ending in (".jsonl", ".ndjson")], True
        case recipe.ParquetReader():
            return ["**/*.parquet"], True
        case recipe.TextReader():
            return [reader.glob], False


def files_not_read(reader: recipe.Reader) -> str:
    """The remark about files in a reader's directory that it does not read; empty if there are none."""
    if (
        isinstance(reader, recipe.JsonlReader | recipe.ParquetReader | recipe.TextReader)
        and reader.path.is_dir()
    ):
        with suppress(PerdureError):  # the raw text is gone
            return not_read(reader.path, *_globs(reader), input_files(reader)[1])
    return ""


def reads_below(reader: recipe.Reader, directory: Path) -> bool:
    """Whether a reader would read files of a directory that is, or will be, inside its own."""
    if not isinstance(reader, recipe.JsonlReader | recipe.ParquetReader | recipe.TextReader):
        return False
    root, place = Path(os.path.realpath(reader.path)), Path(os.path.realpath(directory))
    inside = root.is_dir() and place.is_relative_to(root)
    return inside and reaches(place.relative_to(root).parts, _globs(reader)[0])


def huggingface_on_disk(reader: recipe.HuggingFaceReader) -> Path | None:
    """The directory that `save_to_disk` wrote, the split chosen if it holds several; None for a hub name.

    A dataset that was saved alone is what `train`, the default, stands for, whatever it is called.

    Raises:
        PerdureError: If the directory holds no such split, or no dataset.
    """
    directory = Path(reader.path)
    if not directory.is_dir():
        if directory.is_absolute() or reader.path.startswith("."):
            raise PerdureError(f"{directory}: no such directory; correct the reader's `path`")
        return None
    if (directory / "dataset_dict.json").is_file():
        if not (directory / reader.split / "state.json").is_file():
            splits = sorted(path.parent.name for path in directory.glob("*/state.json"))
            raise PerdureError(f"{directory}: no split {reader.split!r}; it has {', '.join(splits)}")
        return directory / reader.split
    if not (directory / "state.json").is_file():
        raise PerdureError(
            f"{directory}: not written by `save_to_disk`; use a reader of type parquet or jsonl for plain files"
        )
    own = read_json(directory / "state.json").get("_split")
    if reader.split not in ("train", own):
        raise PerdureError(
            f"{directory}: no split {reader.split!r}; it holds one dataset{f', {own}' if own else ''}; remove `split`"
        )
    return directory


def _saved_files(directory: Path) -> list[str]:
    """Names of the files that `save_to_disk` wrote, without the caches that `datasets` adds later."""
    data = [file["filename"] for file in read_json(directory / "state.json")["_data_files"]]
    files = sorted([*data, "state.json", "dataset_info.json"])
    for file in files:
        if not (directory / file).is_file():
            raise PerdureError(f"{directory}: {file} of the dataset is missing; copy it again")
    return files


def edges(path: Path) -> str:
    """The hash of a file's beginning and end."""
    with path.open("rb") as file:
        head = file.read(EDGE)
        file.seek(max(path.stat().st_size - EDGE, 0))
        return hashlib.sha256(head + file.read(EDGE)).hexdigest()


def is_json_lines(path: Path) -> bool:
    """Whether a small file of texts has JSON on every line, by its name; any other is plain text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = [suffix for suffix in suffixes if suffix not in PACKED][-1:]
    return ".jsonl" in suffixes or last in ([".json"], [".ndjson"])
