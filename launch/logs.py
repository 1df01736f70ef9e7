"""What a launched run's jobs print: their logs, and those of jobs that begin later."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.paths import RunPaths

TAIL = 1 << 16
"""Bytes of a log's end that hold the lines shown first."""
LINES = 50
"""Lines of each log that are shown first."""
POLL_SECONDS = 0.5


def log_files(directory: Path, version: str | None) -> list[Path]:
    """The logs of a launched run's jobs, oldest first; of one version's alone if it is named.

    Raises:
        PerdureError: If there is none.
    """
    everything = [directory, *directory.glob("versions/*"), *directory.glob("runs/*")]
    places = [RunPaths(directory).version(version).directory] if version else everything
    found = sorted(
        (file for place in places for file in place.glob("launch/*.log")),
        key=lambda file: file.stat().st_mtime,
    )
    if not found:
        raise PerdureError(
            f"{directory}: no job has written a log yet; `perdure status {directory}` says what it waits for"
        )
    return found


def follow(directory: Path, version: str | None) -> Iterator[tuple[Path, bytes]]:
    """The last lines of a run's logs, then what is added to them and to logs that jobs write later; never ends.

    Raises:
        PerdureError: If there is no log yet.
    """
    read: dict[Path, int] = {}
    for file in log_files(directory, version):
        with file.open("rb") as stream:
            begin = max(0, stream.seek(0, os.SEEK_END) - TAIL)
            stream.seek(begin)
            lines = stream.read().splitlines(keepends=True)[begin > 0 :]
            read[file] = stream.tell()
        yield file, b"".join(lines[-LINES:])
    while True:
        for file in log_files(directory, version):
            with file.open("rb") as stream:
                stream.seek(read.get(file, 0))
                new = stream.read()
                read[file] = stream.tell()
            if new:
                yield file, new
        time.sleep(POLL_SECONDS)
