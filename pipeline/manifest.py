"""Artefacts on disk: hashes, atomic writes, and the `_SUCCESS` that says a directory is whole.

Every artefact is a directory that ends as `manifest.json` (what went in, what came out) and then an empty
`_SUCCESS`. Its name carries the first eight digits of a hash over everything that it depends on, so a changed
recipe makes a new directory, and a finished one is never recomputed.
"""

import errno
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perdure.pipeline.errors import PerdureError

SUCCESS = "_SUCCESS"

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


def hash_files(directory: Path, suffixes: tuple[str, ...] = (".bin", ".idx", ".parquet")) -> dict[str, dict]:
    """Size in bytes and SHA-256 of each file of `directory` with one of `suffixes`, by name."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(directory.iterdir())
        if path.suffix in suffixes
    }


def remembered_hash(store: Path, what: str, files: Sequence[Path], make: Callable[[], str]) -> str:
    """A hash over many bytes, or what it was when they were last hashed if nothing has touched the files since.

    Touched means another inode, size, time of modification or of change. The last cannot be set back, so that content which was
    swapped under its old name, size and date (`cp -p`, `rsync -t`) is hashed again.

    Args:
        store: A JSON file that remembers; made if absent.
        what: Names the hash in it.
        files: All that `make` reads.
        make: Makes the hash.
    """
    begun, state = time.time(), [_file_state(path) for path in files]
    known = read_json(store) if store.exists() else {}
    if (entry := known.get(what)) and entry["files"] == state:
        return entry["hash"]
    made = make()
    newest = max(max(file["mtime_ns"], file["ctime_ns"]) for file in state)
    if newest / 1e9 < begun - SETTLED_SECONDS and state == [_file_state(path) for path in files]:
        write_json(store, known | {what: {"hash": made, "files": state}})
    return made


def _file_state(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:  # opened, because NFS would tell what it remembers of a closed one
        found = os.fstat(file.fileno())
    names = ("ino", "size", "mtime_ns", "ctime_ns")
    return {"path": str(path.resolve())} | {name: getattr(found, f"st_{name}") for name in names}


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
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, keys in the order given, for people to read as well."""
    write_atomic(path, json.dumps(value, indent=1, default=str, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        PerdureError: If the file is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PerdureError(f"{path}: missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PerdureError(f"{path}: not readable as JSON ({error}); delete it and run again") from None


def finish(directory: Path, manifest: dict) -> None:
    """Declares an artefact whole: writes its manifest, then `_SUCCESS`, in that order.

    `versions` of the packages that made it are added to the manifest.
    """
    write_json(directory / "manifest.json", manifest | {"versions": package_versions()})
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
    """Turns a full or forbidden disk into one readable line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise PerdureError(
                f"{error.filename or where}: the disk is full; free some space and run the same command "
                "again: finished parts are kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PerdureError(
                f"{error.filename or where}: no permission to write; choose another place with --out"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise PerdureError(
                f"{error.filename or where}: a file stands in the way; choose another place with --out"
            ) from error
        raise
