"""`perdure verify`: compares all files of a directory with the hashes recorded when they were made."""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.formats import format_bytes
from perdure.pipeline.core.integrity import damaged_files
from perdure.pipeline.core.manifest import HASHES
from perdure.pipeline.core.paths import CHECKPOINTS, SUCCESS, VERSIONS
from perdure.pipeline.core.remedies import artefact_of, remedy
from perdure.pipeline.model.exports import compare_weights

logger = logging.getLogger(__name__)


PASSED_OVER = ("work", "logs", "launch", "report", "tb", "plots")
"""Directories of what is not whole yet, of texts for people, and of pages that every report writes anew."""
TELL_SECONDS = 10.0
"""How often a long comparison says how far it is."""


@dataclass
class Found:
    """An artefact, or loose JSON files of a run.

    Attributes:
        path: Its directory.
        files: What was recorded of its files; empty if nothing was.
        problems: What is wrong, and what to do about it.
        note: What could not be compared.
    """

    path: Path
    files: dict[str, dict]
    problems: list[str]
    note: str = ""


def verify(directory: Path) -> None:
    """Compares all artefacts of a run, a sweep, an artefact or an export with their hashes, and says what it found.

    All files are read, whatever was compared before.

    Args:
        directory: Where to look; of a link what it stands for.

    Raises:
        PerdureError: If there is nothing to verify, or something is damaged.
    """
    if not directory.is_dir():
        raise PerdureError(
            f"{directory}: no such directory; give one that `perdure run` or `export` wrote to"
        )
    if directory.name == "hf" and directory.parent.parent.name == VERSIONS:
        directory = directory.parent  # its hashes stand there
    begun, found = time.monotonic(), list(artefacts(directory))
    if not found:
        raise PerdureError(
            f"{directory}: nothing of Perdure's is here: no manifest.json, hashes.json or _SUCCESS"
        )
    size = sum(_bytes(entry) for artefact in found for entry in artefact.files.values())
    progress = _Progress(size)
    for artefact in found:
        _compare(artefact, progress)
        place = artefact.path.relative_to(directory) if artefact.path != directory else artefact.path
        for problem in artefact.problems:
            logger.error(f"damaged  {problem}")
        if not artefact.problems:
            read = sum(map(_bytes, artefact.files.values()))
            what = artefact.note or f"{len(artefact.files)} files, {format_bytes(read)}"
            logger.info(f"{'as made' if not artefact.note else 'unknown'}  {place}: {what}")
    seconds, damaged = time.monotonic() - begun, [artefact for artefact in found if artefact.problems]
    logger.info(
        f"{len(found)} artefacts, {format_bytes(size)} compared in {seconds:.0f} s ({format_bytes(size / seconds)}/s)"
    )
    if damaged:
        raise PerdureError(
            f"{directory}: {len(damaged)} of {len(found)} artefacts are damaged, as said above"
        )


class _Progress:
    """Progress of a verification in bytes, logged now and then."""

    def __init__(self, total: int):
        self.total, self.done, self.told = total, 0, time.monotonic()

    def add(self, size: int) -> None:
        """Counts a file."""
        self.done += size
        if time.monotonic() - self.told > TELL_SECONDS:
            self.told = time.monotonic()
            logger.info(f"... {format_bytes(self.done)} of {format_bytes(self.total)}")


def artefacts(directory: Path) -> Iterator[Found]:
    """All artefacts at and below a directory, and the loose JSON files of each directory; links are followed once."""
    seen: set[Path] = set()
    for place, folders, names in os.walk(directory, followlinks=True, onerror=_raise):
        path = Path(place)
        if path.resolve() in seen or (path.name.startswith(".") and path != directory):
            folders.clear()
            continue
        seen.add(path.resolve())
        folders[:] = sorted(name for name in folders if name not in PASSED_OVER and not name.startswith("."))
        if (found := _artefact(path, set(folders) | set(names))) is not None:
            yield found
            folders[:] = [name for name in folders if name != "hf"]  # read with its version
        elif problems := [problem for name in names if (problem := _json_problem(path / name))]:
            yield Found(path, {}, problems)


def _raise(error: OSError) -> None:
    raise error


def _artefact(path: Path, names: set[str]) -> Found | None:
    """An artefact's recorded hashes; None if the directory is not an artefact."""
    kept = {"manifest.json", HASHES, SUCCESS} & names
    belongs = artefact_of(path) == path
    if not (belongs or {"manifest.json", SUCCESS} & names or (HASHES in names and "config.json" in names)):
        return None
    is_checkpoint = path.parent.name == CHECKPOINTS
    problems = [problem for name in sorted(names) if (problem := _json_problem(path / name))]
    if problems:
        return Found(path, {}, problems)
    if belongs and SUCCESS not in kept:
        return Found(
            path, {}, [], "not finished" if not is_checkpoint else f"no {SUCCESS}, so it is not used"
        )
    record = path / (HASHES if HASHES in kept and "manifest.json" not in kept else "manifest.json")
    if not record.exists():
        if is_checkpoint:
            return Found(path, {}, [], "no hashes were recorded when it was written")
        return Found(path, {}, [f"{record}: missing; {remedy(record)}"])
    files = read_json(record).get("files", {})
    return Found(path, files, [], "" if files else "no hashes were recorded when it was made")


def _json_problem(path: Path) -> str | None:
    """Problem with a JSON file of ours, such as a wrong checksum; None if there is none."""
    if path.suffix != ".json" or path.name.startswith("."):
        return None
    try:
        read_json(path, object)
    except PerdureError as error:
        return str(error)
    return None


def _compare(artefact: Found, progress: _Progress) -> None:
    """Adds what is wrong with an artefact's files, and with the weights of a version."""
    path = artefact.path

    def done(name: str) -> None:
        progress.add(_bytes(artefact.files[name]))

    for name, problem in damaged_files(path, artefact.files, done, store=None).items():
        artefact.problems.append(f"{path / name}: {problem}; {remedy(path / name)}")
    is_version = path.parent.name == VERSIONS and (path / SUCCESS).exists()
    if is_version and not artefact.problems:
        try:
            compare_weights(path, remember=False)
        except PerdureError as error:
            artefact.problems.append(str(error))


def _bytes(entry: dict) -> int:
    return entry.get("bytes", 0)
