"""Content hashes of a source's files, by which edits are noticed that keep a file's size and edges.

Every task of a source's first pipeline hashes some of its files, and `<out>/contents/<source>@<hash8>.json` keeps the
hashes beside the times of modification. Later starts hash a file again only where that time has changed, and once: what
was found is kept too. So a file that was copied or touched is the same file, and nothing is read while nothing changes.

While tasks read, `begun.json` tells what files looked like before, since tasks may share a file, and some of them may be
whole before a run is killed. A file that looks otherwise has changed only if its content has: by its hash where a task has
left one, else by size and edges. So of a file that tasks share, an edit inside goes unnoticed until one has hashed it.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.formats import format_bytes
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.data.read.inputs import edges

logger = logging.getLogger(__name__)

PARTS, STATES = "contents", "begun.json"
"""In a source's work directory: what tasks found files to hold, and what files looked like when it was begun."""
THREADS = 8
"""Files that are hashed at a time."""
TOLD = 1 << 30
"""Bytes to hash from which on the console says so."""


def record_path(out: Path, cleaned: Path) -> Path:
    """File with the content hashes of the files that a source's cleaned documents were made from."""
    return RunPaths(out).contents / f"{cleaned.name}.json"


def hash_contents(folder: Path, files: list[str]) -> dict[str, dict]:
    """Describes files: by name the `sha256` of the content, and `seen`: the same by time of modification."""
    found = {}
    for name in files:
        time = (folder / name).stat().st_mtime_ns
        digest = hash_file(folder / name)
        found[name] = {"sha256": digest, "seen": {str(time): digest}}
    return found


def remember(work: Path, folder: Path, files: list[str]) -> None:
    """Records what files look like before anything is read, in the source's work directory."""
    paths = [folder / name for name in files]
    states = [_state(path) for path in paths]  # before the content: an edit in between is then looked at
    with ThreadPoolExecutor(THREADS) as pool:
        found = [
            {"state": state, "content": content}
            for state, content in zip(states, pool.map(_outline, paths), strict=True)
        ]
    write_json(work / STATES, dict(zip(files, found, strict=True)))


def changed(work: Path, folder: Path, files: list[str]) -> list[str]:
    """Names of files whose content has changed since the source was begun.

    Other inodes and times are no change (a file system mounted anew, a backup of hard links, `touch`): they only have the
    content looked at, once. What no task has hashed yet has its size and edges compared.
    """
    if not (work / STATES).exists():
        return []
    then, known = read_json(work / STATES), _parts(work / PARTS)
    now = {name: _state(folder / name) for name in files}
    touched = [name for name in files if now[name] != then[name]["state"]]
    found = {name for name in touched if _outline(folder / name) != then[name]["content"]}
    whole = [name for name in touched if name in known and name not in found]
    digests = _hash_all(folder, whole)
    found |= {name for name in whole if digests[name] != known[name]["sha256"]}
    if touched and not found:
        write_json(work / STATES, then | {name: then[name] | {"state": now[name]} for name in touched})
    return sorted(found)


def _state(path: Path) -> list[int]:
    """Inode, size and times of a file; they differ after every change, and after some other events."""
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _outline(path: Path) -> list:
    return [path.stat().st_size, edges(path)]


def _hash_all(folder: Path, files: list[str]) -> dict[str, str]:
    """Hashes files that were read before, by name; says so if they are large."""
    size = sum((folder / name).stat().st_size for name in files)
    if size >= TOLD:
        logger.warning(
            f"{folder}: files touched since they were read: {len(files):,}; comparing their content once, "
            f"{format_bytes(size)}"
        )
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(files, pool.map(hash_file, [folder / name for name in files]), strict=True))


def merge_records(parts: Path, record: Path) -> None:
    """Merges the records of all tasks into one."""
    write_json(record, _parts(parts))


def _parts(directory: Path) -> dict[str, dict]:
    merged: dict[str, dict] = {}
    for path in sorted(directory.glob("*.json")):
        part = read_json(path)
        assert not merged.keys() & part.keys(), path  # every file is hashed by one task
        merged |= part
    return merged


def edited(record: Path, folder: Path, files: list[str]) -> dict[str, str]:
    """Files whose content differs from what was read.

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
        for name, digest in _hash_all(folder, new).items():
            known[name]["seen"][times[name]] = digest
        with suppress(OSError):  # someone else's run: hashed again the next time
            write_json(record, known)
    now = {name: known[name]["seen"][time] for name, time in times.items()}
    return {name: digest for name, digest in now.items() if digest != known[name]["sha256"]}
