"""Fencing: of two starts of one version, only the newer one may write what counts.

Every start takes a number, one higher than the last. Whoever commits (renames a checkpoint, declares a version whole)
holds the fence meanwhile and is refused when a newer start has taken a number: a process that hung, or lost its network,
and wakes up late cannot touch what its successor builds on. The number is the "fencing token" of Kleppmann, "How to do
distributed locking" (2016).
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.locks import lock, open_lock
from perdure.pipeline.core.paths import VersionPaths

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""How long the fence is waited for in silence; a commit holds it for less than a second."""


def take(directory: Path) -> int:
    """Fences off every earlier start of the version in `directory` and returns this start's number, from 1."""
    with _locked(directory) as file:
        attempt = _newest(file) + 1
        # Always as long, so that a crash leaves the old number or the new one.
        os.pwrite(file, f"{attempt:>12}\n{os.environ.get('PERDURE_ATTEMPT', ''):<32}\n".encode(), 0)
        os.fsync(file)
    return attempt


def take_together(directory: Path) -> int:
    """`take` on rank 0, told to all ranks: the process group has met, so this start is alive."""
    from perdure.pipeline.model.collectives import from_first

    return from_first(lambda: take(directory))


def newest(directory: Path) -> tuple[int, str]:
    """The number that the last start took, 0 before the first one, and which attempt of a job that was, if of any."""
    file = VersionPaths(directory).fence
    number, _, attempt = (file.read_text() if file.exists() else "0").partition("\n")
    return int(number or 0), attempt.strip()


@contextmanager
def held(directory: Path, attempt: int) -> Iterator[None]:
    """Keeps newer starts waiting while this one commits.

    Raises:
        PerdureError: If a newer start has taken over.
    """
    with _locked(directory) as file:
        if (newest := _newest(file)) != attempt:
            raise PerdureError(
                f"{directory}: start {newest} of this version has taken over from start {attempt}, "
                "which ends here and has written nothing more"
            )
        yield


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    file = open_lock(VersionPaths(directory).fence)
    try:
        _lock(file, directory)
        yield file
    finally:
        os.close(file)


def _lock(file: int, directory: Path) -> None:
    begun, told = time.monotonic(), False
    while not lock(file, VersionPaths(directory).fence):
        if not told and time.monotonic() - begun > PATIENCE_SECONDS:
            told = True
            logger.warning(
                f"{directory / 'fence'}: another start of this version holds it, and may be suspended in the middle of "
                "a commit; waiting until that process goes on or ends"
            )
        time.sleep(0.02)


def _newest(file: int) -> int:
    return int(os.pread(file, 13, 0) or 0)
