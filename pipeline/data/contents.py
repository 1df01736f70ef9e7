"""What the files of a source held when they were read, so that an edit is noticed that keeps a file's size and edges.

Every task of a source's first pipeline hashes some of its files, and `<out>/contents/<source>@<hash8>.json` keeps the
hashes beside the times of modification. While that goes on, `files.json` tells whether a file has changed in between, since
tasks may share a file, and some of them may be whole before a run is killed. Later starts hash a file again only where that time has changed, and once: what
was found is kept too. So a file that was copied or touched is the same file, and nothing is read while nothing changes.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from perdure.pipeline.manifest import hash_file, read_json, write_json

PARTS, STATES = "contents", "files.json"
"""In a source's work directory: what tasks found files to hold, and what files looked like when it was begun."""
THREADS = 8
"""Files that are hashed at a time."""
TOLD = 1 << 30
"""Bytes to hash from which on the console says so."""


def record_path(out: Path, cleaned: Path) -> Path:
    """Where the contents stand of the files that a source's cleaned documents were made from."""
    return out / "contents" / f"{cleaned.name}.json"


def hash_contents(folder: Path, files: list[str]) -> dict[str, dict]:
    """Describes files: by name the `sha256` of the content, and `seen`: the same by time of modification."""
    found = {}
    for name in files:
        time = (folder / name).stat().st_mtime_ns
        digest = hash_file(folder / name)
        found[name] = {"sha256": digest, "seen": {str(time): digest}}
    return found


def remember(work: Path, folder: Path, files: list[str]) -> None:
    """Leaves in a source's work directory what files look like before anything is read."""
    write_json(work / STATES, {name: _state(folder / name) for name in files})


def changed(work: Path, folder: Path, files: list[str]) -> list[str]:
    """Names of files that are not as they were when the source was begun.

    One that was touched since is the same if a task had hashed it before and it still holds that.
    """
    if not (work / STATES).exists():
        return []
    then, known = read_json(work / STATES), _parts(work / PARTS)
    touched = [name for name in files if _state(folder / name) != then[name]]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(hash_file, [folder / name for name in touched])
        return [
            name
            for name, digest in zip(touched, digests, strict=True)
            if name not in known or known[name]["seen"].get(str(then[name]["mtime_ns"])) != digest
        ]


def _state(path: Path) -> dict[str, int]:
    found = path.stat()
    return {name: getattr(found, f"st_{name}") for name in ("ino", "size", "mtime_ns", "ctime_ns")}


def merge_records(parts: Path, record: Path) -> None:
    """Makes one record of those that tasks left in a directory."""
    write_json(record, _parts(parts))


def _parts(directory: Path) -> dict[str, dict]:
    merged: dict[str, dict] = {}
    for path in sorted(directory.glob("*.json")):
        part = read_json(path)
        assert not merged.keys() & part.keys(), path  # every file is hashed by one task
        merged |= part
    return merged


def edited(record: Path, folder: Path, files: list[str]) -> dict[str, str]:
    """Files that hold something else than what was read.

    Args:
        record: Of what was read; if there is none, nothing was.
        folder: Where the files are now.
        files: Their names, sizes and edges being those that were read.

    Returns:
        The SHA-256 of each one's content, by name.
    """
    if not record.exists():
        return {}
    known = read_json(record)
    times = {name: str((folder / name).stat().st_mtime_ns) for name in files}
    new = [name for name, time in times.items() if time not in known[name]["seen"]]
    if new:
        size = sum((folder / name).stat().st_size for name in new)
        if size >= TOLD:
            print(
                f"{folder}: files modified since they were read: {len(new):,}; comparing their content once, "
                f"{size / 1e9:,.0f} GB",
                file=sys.stderr,
                flush=True,
            )
        with ThreadPoolExecutor(THREADS) as pool:
            digests = pool.map(hash_file, [folder / name for name in new])
            for name, digest in zip(new, digests, strict=True):
                known[name]["seen"][times[name]] = digest
        with suppress(OSError):  # someone else's run: hashed again the next time
            write_json(record, known)
    now = {name: known[name]["seen"][time] for name, time in times.items()}
    return {name: digest for name, digest in now.items() if digest != known[name]["sha256"]}
