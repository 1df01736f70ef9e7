"""Integrity of artefacts: comparison of their files with the hashes in their manifests.

A manifest has the SHA-256 of every file. It is compared before the files are used, once after any change of them: what they
looked like then (inode, size, times) stands in the artefact's `.verified.json`, written first as the artefact is finished, so
that nothing is read again at every start.
"""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.formats import format_bytes
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.remedies import readable, remedy
from perdure.pipeline.core.remembered_hashes import VERIFIED, remembered_hashes

logger = logging.getLogger(__name__)

TELL_BYTES = 10_000_000_000
"""Files that take some ten seconds to hash."""


def damaged_files(
    directory: Path,
    files: dict[str, dict],
    done: Callable[[str], None] = lambda name: None,
    store: str | None = VERIFIED,
) -> dict[str, str]:
    """Compares an artefact's files with what was recorded of them.

    Args:
        directory: The artefact.
        files: By path in it `sha256` and, if known, `bytes`.
        done: Is told the name of each file that was hashed.
        store: File in it that remembers what was compared; None compares all, and remembers nothing.

    Returns:
        What is wrong, by name, in words.
    """
    problems, looked_at = {}, {}
    for name, entry in files.items():
        path = directory / name
        if problem := _unlike(path, entry):
            problems[name] = problem
        else:
            looked_at[name] = ([path], lambda path=path: hash_of_file(path))
    found = remembered_hashes(directory / store if store else None, looked_at, done, _tell)
    for name, digest in found.items():
        if digest != files[name]["sha256"]:
            problems[name] = f"damaged: SHA-256 {digest[:8]}, recorded {files[name]['sha256'][:8]}"
    return problems


def _tell(store: Path, size: int) -> None:
    """Logs that many bytes are hashed, which happens once."""
    if size >= TELL_BYTES:
        logger.warning(f"{store.parent}: comparing {format_bytes(size)} with their recorded hashes, once")


def _unlike(path: Path, entry: dict) -> str | None:
    """Problem with a file that shows without hashing it; None if there is none."""
    try:
        if path.is_dir():
            return "a directory stands in its place"
        with path.open("rb") as file:
            size = file.seek(0, 2)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size != entry.get("bytes", size):
        return f"{'truncated' if size < entry['bytes'] else 'longer'}: {size:,} of {entry['bytes']:,} bytes"
    return None


def hash_of_file(path: Path) -> str:
    """`hashes.hash_file` with readable errors."""
    try:
        return hash_file(path)
    except OSError as error:
        raise readable(error, path) from error


def require_whole(directory: Path, names: Iterable[str] | None = None) -> None:
    """Raises if an artefact's files are not those that it was finished with.

    Args:
        directory: A finished artefact; of one from before hashes were recorded nothing is known.
        names: Those that will be read; default: all.

    Raises:
        PerdureError: If one is missing, truncated or damaged, naming it and what to delete.
    """
    files = read_json(directory / "manifest.json").get("files", {})
    wanted = files if names is None else {name: files[name] for name in names if name in files}
    for name, problem in damaged_files(directory, wanted).items():
        raise PerdureError(f"{directory / name}: {problem}; {remedy(directory / name)}")


def is_whole(directory: Path) -> bool:
    """Whether an artefact is finished; the files of a finished one are compared with their hashes.

    Raises:
        PerdureError: As `require_whole`.
    """
    if not is_finished(directory):
        return False
    require_whole(directory)
    return True


def json_lines(path: Path, lines: Iterable[str | bytes]) -> list[dict]:
    """Parsed lines of a JSONL file, without a last one that has no line end and may be half written.

    Raises:
        PerdureError: If one holds something else.
    """
    try:
        found = [json.loads(line) for line in lines if line[-1:] in ("\n", b"\n")]
    except ValueError as error:
        raise PerdureError(f"{path}: not readable as lines of JSON ({error}); {remedy(path)}") from None
    if not all(isinstance(entry, dict) for entry in found):
        raise PerdureError(f"{path}: should hold a JSON object a line; {remedy(path)}")
    return found


FORGOTTEN = b"{}\n"
"""What a person leaves in `metrics.jsonl` to go on without the steps that it told of: no damage looks like it."""


def metrics_lines(path: Path) -> list[dict]:
    """The whole lines of a version's `metrics.jsonl`; none if it is not there or `FORGOTTEN`.

    Raises:
        PerdureError: If it is damaged.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise readable(error, path) from error
    found = [] if lines == [FORGOTTEN] else json_lines(path, lines)
    if not all(isinstance(entry.get("step"), int) for entry in found):
        raise PerdureError(f"{path}: a line has no step; {remedy(path)}")
    return found
