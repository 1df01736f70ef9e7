"""CPU cores shared with other programs: idle OpenMP threads sleep, and time lost to contention is logged.

OpenMP's threads spin by default until the slowest of them is done. Where others want the cores, those that spin keep the one
that they wait for from running: training a small model then takes ten times as long, and burns CPU all the while.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What OpenMP reads, as torch is imported, to have threads sleep instead of spin."""
PROCESSES = Path("/proc")
WINDOW = 20.0
"""Seconds over which waiting is looked at: programs that start beside ours and end soon are no matter."""
CROWDED = 0.25
"""Share of their time that threads wait for a core, from which on it is told."""
WANTED = 0.5
"""Cores that threads want on average, below which there is nothing to tell."""
PAUSE = 600.0
"""Seconds until it is told again, if it lasts; twice as many after every time."""


def sleep_while_waiting() -> None:
    """Makes idle OpenMP threads of this process and its children sleep instead of spin; the user's own setting wins.

    This comes before torch is imported.
    """
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)


def number_of_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def warning_when_crowded() -> Iterator[None]:
    """Logs a warning meanwhile if this process and all that came from it wait long for cores, and what that means for their
    speed."""
    ended = threading.Event()

    def watch() -> None:
        before: dict[int, tuple[int, int]] = {}
        due, pause = time.monotonic(), PAUSE
        while not ended.wait(WINDOW):
            now = thread_times(os.getpid())
            line, before = crowded_line(*grown(before, now)), now
            if line and time.monotonic() >= due:
                logger.warning(line)
                due, pause = time.monotonic() + pause, 2 * pause

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def crowded_line(ran: float, waited: float) -> str:
    """A warning about the seconds that threads ran and waited for a core in a window; empty if they seldom waited."""
    if ran + waited < WANTED * WINDOW or waited < CROWDED * (ran + waited):
        return ""
    share = waited / (ran + waited)
    return (
        f"oversubscribed: threads that were ready to run waited {share:.0%} of the time for one of {number_of_cores()} cores "
        f"(load average {os.getloadavg()[0]:.1f}); tokens/s are {1 - share:.0%}, or less, of those on a quiet machine"
    )


def grown(before: dict[int, tuple[int, int]], now: dict[int, tuple[int, int]]) -> tuple[float, float]:
    """Seconds that threads ran and waited between two calls of `thread_times`; those that ended meanwhile are left out."""
    pairs = [(before.get(thread, (0, 0)), times) for thread, times in now.items()]
    ran, waited = (sum(new[part] - old[part] for old, new in pairs) / 1e9 for part in (0, 1))
    return ran, waited


def thread_times(process: int) -> dict[int, tuple[int, int]]:
    """Nanoseconds that each thread of a process and its descendants ran and waited for a core, by thread id.

    Linux counts both (`/proc/PID/task/TID/schedstat`); elsewhere there are none.
    """
    found = {}
    for member in _family(process):
        for file in PROCESSES.glob(f"{member}/task/[0-9]*/schedstat"):
            if fields := _read(file).split():
                found[int(file.parent.name)] = (int(fields[0]), int(fields[1]))
    return found


def _family(process: int) -> list[int]:
    """A process and its descendants, except those whose parent has ended."""
    children: dict[int, list[int]] = {}
    for file in PROCESSES.glob("[0-9]*/stat"):
        if fields := _read(file).rpartition(")")[2].split():  # the name before may hold anything
            children.setdefault(int(fields[1]), []).append(int(file.parent.name))
    family = [process]
    for member in family:
        family += children.get(member, [])
    return family


def _read(file: Path) -> str:
    """Content of a file below `/proc`; empty if the process has ended."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
