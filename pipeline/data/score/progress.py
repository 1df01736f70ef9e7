"""Progress lines on the console while other processes score."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.pipeline.core.formats import format_duration, format_tokens

logger = logging.getLogger(__name__)

PAUSE, LONGEST_PAUSE, SHARE = 10.0, 300.0, 0.1
"""Seconds between two lines on what is scored, at least and at most, and their share of the time so far."""


@contextmanager
def telling(folder: Path, source: str, total: int) -> Iterator[None]:
    """Prints progress while tasks score: how much is done, and how long the rest will take.

    Args:
        folder: Where tasks write how many tokens they have scored.
        source: The source's name.
        total: Its tokens.
    """
    ended, begun, done_before = threading.Event(), time.monotonic(), _scored(folder)

    def tell() -> None:
        last, done_last = begun, done_before
        pause = PAUSE
        while not ended.wait(pause):
            now, done = time.monotonic(), _scored(folder)
            if done > done_last:
                logger.info(_line(source, done, total, (done - done_last) / (now - last)))
                last, done_last = now, done
            pause = min(max(PAUSE, SHARE * (now - begun)), LONGEST_PAUSE)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _scored(folder: Path) -> int:
    """Tokens that all tasks have scored by now, earlier runs included."""
    try:
        return sum(int(file.read_text()) for file in folder.glob("[0-9]*"))
    except OSError:  # NFS may lose a file that is replaced while it is read; the next look sees the new one
        return 0


def _line(source: str, done: int, total: int, rate: float) -> str:
    return (
        f"scoring {source}: {format_tokens(done)} of {format_tokens(total)} tokens ({done / total:.0%}), {rate:,.0f} tokens/s, "
        f"ETA {format_duration((total - done) / rate)}"
    )
