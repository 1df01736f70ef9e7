"""Files written whole or not at all, directories moved whole, and JSON with a checksum of its own."""

import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.remedies import artefact_of, remedy

CHECKSUM, SCHEME = "checksum", "perdure-sha256:"
"""Key of a JSON file's checksum, and what its value begins with: other people's files may have such a key."""


def finite(value: Any) -> Any:
    """A value with plain lists and numbers in place of NumPy's, and None for numbers that are not finite, as JSON has none."""
    if hasattr(value, "tolist"):  # NumPy itself would slow the command line's start
        value = value.tolist()
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: a temporary name beside it, flushed to disk, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # The mode follows the umask, which tempfile's does not.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir():
            raise PerdureError(f"{path}: a directory stands in the file's place; {remedy(path)}")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_whole(source: Path, target: Path) -> None:
    """Renames a directory or file, so that after a power cut the target holds all of it or does not exist.

    Everything below it is flushed to disk first, and the new name last: a file system may otherwise write a name before what
    it names.

    Args:
        source: What to rename.
        target: Its new name, on the same file system; a file or an empty directory there is replaced.
    """
    for folder, _, names in os.walk(source):
        for name in names:
            if not (path := Path(folder) / name).is_symlink():
                flush(path)
        flush(Path(folder))
    if source.is_file():
        flush(source)
    os.replace(source, target)
    flush(target.parent)


def flush(path: Path) -> None:
    """Waits until a file's content, or a directory's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, checksum: bool = True) -> None:
    """Writes JSON atomically, keys in the order given, for people to read as well.

    An object gets a checksum, which `read_json` compares and takes away; files for other programs should have none.
    """
    text = _dumps(value)
    if checksum and isinstance(value, dict):
        plain = json.loads(text)
        text = _dumps(plain | {CHECKSUM: _checksum(path, plain)})
    write_atomic(path, text + "\n")


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=1, default=str, ensure_ascii=False)


def _checksum(path: Path, value: dict) -> str:
    """Checksum of a file's name and content; with the name, a file swapped for its neighbour is noticed."""
    return SCHEME + hash_of([path.name, value])


class MissingKey(PerdureError, KeyError):
    """Raised for a missing key of a JSON file; also a `KeyError`, as templates expect of a mapping."""

    def __str__(self) -> str:
        return self.args[0]


class JsonObject(dict):
    """An object of a JSON file that names the file where a key is missing."""

    _file: Path

    def __missing__(self, key: str) -> Any:
        raise MissingKey(f"{self._file}: has no {key!r}; {remedy(self._file)}")


def read_json(path: Path, kind: type = dict) -> Any:
    """Reads JSON.

    Args:
        path: The file.
        kind: What it holds: `dict`, `list` or `str`.

    Raises:
        PerdureError: If the file is missing or broken, holds something else, or was changed by anything but `write_json`.
    """

    def named(pairs: list[tuple[str, Any]]) -> JsonObject:
        found = JsonObject(pairs)
        found._file = path
        return found

    if path.is_fifo():  # it would be waited for
        raise PerdureError(f"{path}: a pipe; should be a file")
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=named)
    except FileNotFoundError:
        place = "" if artefact_of(path) is None else f"; {remedy(path)}"
        raise PerdureError(f"{path}: missing{place}") from None
    except OSError as error:
        raise PerdureError(f"{path}: cannot be read ({error.strerror}); {remedy(path)}") from None
    except (ValueError, RecursionError) as error:
        raise PerdureError(f"{path}: not readable as JSON ({error}); {remedy(path)}") from None
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "object", list: "array", str: "string"}
        raise PerdureError(f"{path}: should hold a JSON {names[kind]}; {remedy(path)}")
    if not isinstance(value, dict) or not str(value.get(CHECKSUM)).startswith(SCHEME):
        return value
    if value.pop(CHECKSUM) != _checksum(path, value):
        raise PerdureError(f"{path}: damaged: it no longer fits its own checksum; {remedy(path)}")
    return value
