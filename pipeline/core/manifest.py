"""Artefacts on disk: hashes, atomic writes, and the `_SUCCESS` that says a directory is whole.

Every artefact is a directory that ends as `manifest.json` (what went in, what came out) and then an empty
`_SUCCESS`. Its name carries the first eight digits of a hash over everything that it depends on, so a changed
recipe makes a new directory, and a finished one is never recomputed.

Damage is found in two ways: every JSON file has a checksum of its own, compared whenever it is read; and a manifest holds
the SHA-256 of the artefact's files, which `integrity.py` compares before they are used.
"""

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.paths import SUCCESS
from perdure.pipeline.core.remedies import artefact_of, readable, remedy

VERIFIED = ".verified.json"
"""Of an artefact: what its files looked like when they were last hashed, see `remembered_hashes`."""
HASHES = "hashes.json"
"""Of checkpoints, and of directories that `perdure export` wrote: `files`, as a manifest has them."""
CHECKSUM, SCHEME = "checksum", "perdure-sha256:"
"""Key of a JSON file's checksum, and what its value begins with: other people's files may have such a key."""
HASH_THREADS = min(8, os.cpu_count() or 1)

SETTLED_SECONDS = 10.0
"""A file that changed more recently may change again within one tick of its file system's clock."""


def hash_of(value: Any) -> str:
    """SHA-256, in hex, of a JSON-serialisable value with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256, in hex, of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_directory(path: Path, hidden: bool = True) -> str:
    """SHA-256, in hex, over the names and contents of all files below `path`, but for `.*` and `__pycache__` if not `hidden`."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not hidden:
        parts = {file: file.relative_to(path).parts for file in files}
        files = [
            file for file in files if not any(part[0] == "." or part == "__pycache__" for part in parts[file])
        ]
    return hash_of([(str(file.relative_to(path)), hash_file(file)) for file in files])


def hash_files(directory: Path, names: Iterable[str] | None = None, remember: bool = True) -> dict[str, dict]:
    """Size in bytes and SHA-256 of files of an artefact, by name.

    Args:
        directory: The artefact.
        names: Their paths in it; default: all files that stand in it itself, but for hidden ones, manifest and `_SUCCESS`.
        remember: Whether they are remembered in its `VERIFIED`.
    """
    if names is None:
        names = (path.name for path in directory.iterdir() if path.is_file() and path.name[0] != ".")
    paths = {name: directory / name for name in sorted(set(names) - {"manifest.json", SUCCESS})}
    store = directory / VERIFIED if remember else None
    found = remembered_hashes(store, {name: _content(path) for name, path in paths.items()})
    return {name: {"bytes": path.stat().st_size, "sha256": found[name]} for name, path in paths.items()}


def _content(path: Path) -> "tuple[Sequence[Path], Callable[[], str]]":
    return [path], lambda: hash_file(path)


def remembered_hash(store: Path, what: str, files: Sequence[Path], make: Callable[[], str]) -> str:
    """A hash over many bytes, or what it was when they were last hashed if nothing has touched the files since.

    Args:
        store: See `remembered_hashes`.
        what: Names the hash in it.
        files: All that `make` reads.
        make: Makes the hash.
    """
    return remembered_hashes(store, {what: (files, make)})[what]


def remembered_hashes(
    store: Path | None,
    wanted: Mapping[str, tuple[Sequence[Path], Callable[[], str]]],
    done: Callable[[str], None] = lambda what: None,
    tell: Callable[[Path, int], None] = lambda store, size: None,
) -> dict[str, str]:
    """Hashes by name; those whose files nothing has touched since they were last made are remembered, others made by threads.

    Touched means another inode, size, time of modification or of change. The last cannot be set back, so that content which was
    swapped under its old name, size and date (`cp -p`, `rsync -t`) is hashed again.

    Args:
        store: A JSON file that remembers; made if absent, and anew if damaged. Where it cannot be written, nothing is remembered,
            nor is with None.
        wanted: By name all files that make a hash, and what makes it.
        done: Is told the name of each hash that was made.
        tell: Is told the store and how many bytes it does not remember, before they are read.

    Raises:
        OSError: If a file cannot be read.
    """
    begun, here = time.time(), store and store.parent.resolve()
    states = {what: [_file_state(path, here) for path in files] for what, (files, _) in wanted.items()}
    known = _remembered(store) if store else {}
    found = {
        what: entry["hash"]
        for what, state in states.items()
        if (entry := known.get(what)) and entry["files"] == state
    }
    missing = [what for what in wanted if what not in found]
    if store and missing:
        tell(store, sum(file["size"] for what in missing for file in states[what]))

    def make(what: str) -> str:
        made = wanted[what][1]()
        done(what)
        return made

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        found |= dict(zip(missing, pool.map(make, missing)))
    settled = {
        what: {"hash": found[what], "files": states[what]}
        for what in missing
        if max(max(file["mtime_ns"], file["ctime_ns"]) for file in states[what]) / 1e9
        < begun - SETTLED_SECONDS
        and states[what] == [_file_state(path, here) for path in wanted[what][0]]
    }
    if settled and store:
        with suppress(OSError):  # somebody else's artefact
            write_json(store, known | settled)
    return found


def _remembered(store: Path) -> dict:
    with suppress(PerdureError):
        return read_json(store)
    return {}


def _file_state(path: Path, here: Path | None) -> dict[str, Any]:
    with path.open("rb") as file:  # opened, because NFS would tell what it remembers of a closed one
        found = os.fstat(file.fileno())
    names = ("ino", "size", "mtime_ns", "ctime_ns")
    place = path.resolve()
    if here and place.is_relative_to(here):  # an artefact is moved once it is whole
        place = place.relative_to(here)
    return {"path": str(place)} | {name: getattr(found, f"st_{name}") for name in names}


def finite(value: Any) -> Any:
    """The same value, NumPy's arrays and numbers as plain ones, with None for numbers that are not finite: JSON has none."""
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
    """Of a file's name and content, so that a file that was swapped for a neighbour shows."""
    return SCHEME + hash_of([path.name, value])


class MissingKey(PerdureError, KeyError):
    """A key that a JSON file should have; templates and others may ask for it as of any mapping."""

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
        kind: What it holds: `dict` or `list`.

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
        raise PerdureError(
            f"{path}: should hold a JSON {'array' if kind is list else 'object'}; {remedy(path)}"
        )
    if not isinstance(value, dict) or not str(value.get(CHECKSUM)).startswith(SCHEME):
        return value
    if value.pop(CHECKSUM) != _checksum(path, value):
        raise PerdureError(f"{path}: damaged: it no longer fits its own checksum; {remedy(path)}")
    return value


def finish(directory: Path, manifest: dict) -> None:
    """Declares an artefact whole: writes its manifest, then `_SUCCESS`, in that order.

    `versions` of the packages that made it are added to the manifest, and `files` (sizes and SHA-256) unless it has them:
    of all that stand in the directory itself.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {} if "files" in manifest else {"files": hash_files(directory)}
    write_json(directory / "manifest.json", manifest | files | {"versions": package_versions()})
    write_atomic(directory / SUCCESS, "")


def refuse_link(directory: Path) -> None:
    """Refuses to work in a directory that a symbolic link leads to: what is removed there would be somebody else's.

    Raises:
        PerdureError: If it is a link.
    """
    if directory.is_symlink():
        raise PerdureError(
            f"{directory}: a symbolic link, where Perdure makes and removes directories of its own; remove the link (to "
            "work elsewhere, choose another --out)"
        )


def is_finished(directory: Path) -> bool:
    """Whether the artefact is whole."""
    return (directory / SUCCESS).exists()


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape results."""
    found = {}
    for package in ("perdure", "torch", "megatron-core", "datatrove", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def differences(expected: dict, found: dict, prefix: str = "") -> list[str]:
    """Names what differs between two nested mappings, a `path: expected -> found` line each."""
    lines = []
    for key in sorted(expected.keys() | found.keys(), key=str):
        left, right = expected.get(key), found.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} -> {right!r}")
    return lines


@contextmanager
def disk_errors(where: Path):
    """Turns what a disk or file system refuses into one readable line."""
    try:
        yield
    except OSError as error:
        raise readable(error, where) from error
