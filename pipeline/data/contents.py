"""What the files of a source held when they were read, so that an edit is noticed that keeps a file's size and edges.

Every task of a source's first pipeline hashes some of its files, and `<out>/contents/<source>@<hash8>.json` keeps the
hashes beside the times of modification. Later starts hash a file again only where that time has changed, and once: what
was found is kept too. So a file that was copied or touched is the same file, and nothing is read while nothing changes.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from perdure.pipeline.manifest import hash_file, read_json, write_json

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


def merge_records(parts: Path, record: Path) -> None:
    """Makes one record of those that tasks left in a directory."""
    merged: dict[str, dict] = {}
    for path in sorted(parts.glob("*.json")):
        merged |= read_json(path)
    write_json(record, merged)


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
