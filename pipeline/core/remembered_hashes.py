"""Hashes of files, cached until the files' inodes or times change."""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.paths import SUCCESS

VERIFIED = ".verified.json"
"""Of an artefact: what its files looked like when they were last hashed, see `remembered_hashes`."""
HASH_THREADS = min(8, os.cpu_count() or 1)

TICK_SECONDS = 2.0
"""Longest tick of a file system's clock: a file that changed more recently may change again under the same times."""
SETTLED_SECONDS = 10.0
"""The same for a file on another file system than the store, whose clock may differ from this machine's."""
WAIT_BYTES = 4_000_000_000
"""Files that take longer to hash again than `TICK_SECONDS`."""


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
    if store:
        _let_settle(list(paths.values()))
    found = remembered_hashes(store, {name: _content(path) for name, path in paths.items()})
    return {name: {"bytes": path.stat().st_size, "sha256": found[name]} for name, path in paths.items()}


def _let_settle(paths: Sequence[Path]) -> None:
    """Waits for a tick if large files have only just been written, so that the next opening need not hash them again."""
    stats = [path.stat() for path in paths]
    newest = max((max(found.st_mtime, found.st_ctime) for found in stats), default=0.0)
    if sum(found.st_size for found in stats) >= WAIT_BYTES:
        wanted = (
            newest + TICK_SECONDS + 0.1 - time.time()
        )  # the file system's clock may lag by a tick of its own
        time.sleep(min(max(0.0, wanted), TICK_SECONDS + 0.1))


def _content(path: Path) -> "tuple[Sequence[Path], Callable[[], str]]":
    return [path], lambda: hash_file(path)


def remembered_hash(store: Path, what: str, files: Sequence[Path], make: Callable[[], str]) -> str:
    """A hash over files, cached while nothing touches them.

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
    """Hashes by name: cached ones where nothing has touched the files since, others computed by threads.

    Touched means another inode, size, time of modification or of change. The last cannot be set back, so that content which was
    swapped under its old name, size and date (`cp -p`, `rsync -t`) is hashed again.

    Args:
        store: A JSON file that remembers; made if absent, and anew if damaged. Where it cannot be written, nothing is
            remembered, nor is with None.
        wanted: By name all files that make a hash, and what makes it.
        done: Is told the name of each hash that was made.
        tell: Is told the store and how many bytes it does not remember, before they are read.

    Raises:
        OSError: If a file cannot be read.
    """
    here = store and store.parent.resolve()
    states = {what: [file_state(path, here) for path in files] for what, (files, _) in wanted.items()}
    known = _remembered(store) if store else {}
    found = {
        what: entry["hash"]
        for what, state in states.items()
        if (entry := known.get(what)) and entry["files"] == state
    }
    missing = [what for what in wanted if what not in found]
    settled_before = _settled_before(store) if store and missing else None
    if store and missing:
        tell(store, sum(file["size"] for what in missing for file in states[what]))

    def make(what: str) -> str:
        made = wanted[what][1]()
        done(what)
        return made

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        found |= dict(zip(missing, pool.map(make, missing)))
    if store and settled_before:
        settled = {
            what: {"hash": found[what], "files": states[what]}
            for what in missing
            if all(map(settled_before, wanted[what][0], states[what]))
            and states[what] == [file_state(path, here) for path in wanted[what][0]]
        }
        if settled:
            with suppress(OSError):
                write_json(store, known | settled)
    return found


def _settled_before(store: Path) -> Callable[[Path, dict[str, Any]], bool] | None:
    """A test of a file's path and state: whether its last change is so old that any later one will show in its times.

    The file system says what time it is, by a file that is made beside the store: this machine's clock may be another one.

    Returns:
        What tells; None where the store cannot be written.
    """
    probe = store.with_name(f".{store.name}.{secrets.token_hex(4)}")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        made = probe.stat()
        probe.unlink()
    except OSError:  # somebody else's artefact
        return None
    begun = time.time()

    def settled(path: Path, state: dict[str, Any]) -> bool:
        changed = max(state["mtime_ns"], state["ctime_ns"]) / 1e9
        if path.stat().st_dev == made.st_dev:
            return changed < made.st_mtime - TICK_SECONDS
        return changed < begun - SETTLED_SECONDS

    return settled


def _remembered(store: Path) -> dict:
    with suppress(PerdureError):
        return read_json(store)
    return {}


def file_state(path: Path, here: Path | None) -> dict[str, Any]:
    """A file's path (relative to `here`, if it is below), inode, size in bytes and times, which differ after any change of
    it."""
    with path.open("rb") as file:  # opened, because NFS would tell what it remembers of a closed one
        found = os.fstat(file.fileno())
    names = ("ino", "size", "mtime_ns", "ctime_ns")
    place = path.resolve()
    if here and place.is_relative_to(here):  # an artefact is moved once it is whole
        place = place.relative_to(here)
    return {"path": str(place)} | {name: getattr(found, f"st_{name}") for name in names}
