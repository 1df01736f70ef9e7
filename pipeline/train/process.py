"""What one rank is as a process: it dies with its starter, its helpers die with it, and signals ask it to stop.

SIGTERM and SIGUSR1 ask for a stop (a scheduler's notice of preemption). While training, nothing happens inside the
handler: the loop asks for `requested` at the end of every step, and saves. At any other time (start, evaluation,
export) a finished step is on disk already, so the process leaves at once; the next start does that part again.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.managers import SyncManager

from perdure.pipeline.core.gpu_settings import add_gpu_settings
from perdure.pipeline.core.open_files import allow_open_files

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_libc = ctypes.CDLL(None)  # now, because a fork must not wait for the loader's lock

_requested = 0
_deferred = False


def follow_parent() -> None:
    """Dies with the process that started this one, so that nothing stale writes beside a restarted run (Linux only)."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    if sys.platform == "linux":
        _libc.prctl(parent_death_signal, signal.SIGKILL)


def start_rank() -> None:
    """Ties this rank to its starter and its forks to itself, lets it open files, and listens for signals to stop.

    Called before torch is imported, which reads the environment then: a rank may have been started by hand.
    """
    add_gpu_settings(os.environ)
    allow_open_files()
    follow_parent()
    os.register_at_fork(after_in_child=follow_parent)
    for number in STOP_SIGNALS:
        signal.signal(number, _on_stop)


def requested() -> int:
    """The signal that asked for a stop, 0 if none did."""
    return _requested


@contextmanager
def stops_deferred() -> Iterator[None]:
    """While it lasts, a signal is only remembered; the caller asks for `requested`."""
    global _deferred
    _deferred = True
    yield
    _deferred = False
    if _requested:
        _leave()


def helper_manager() -> SyncManager:
    """A started multiprocessing manager that dies with this process and is deaf to signals that ask for a stop."""
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(initializer=_start_helper)
    return manager


def _start_helper() -> None:
    follow_parent()
    for number in STOP_SIGNALS:  # schedulers send them to every process of a job
        signal.signal(number, signal.SIG_IGN)


def _on_stop(number: int, _frame: object) -> None:
    global _requested
    _requested = number
    if not _deferred:
        _leave()


def _leave() -> None:
    if os.environ.get("RANK", "0") == "0":
        name = signal.Signals(_requested).name
        logger.info(f"stopped by {name}: nothing is lost; run the same command again to go on")
    os._exit(0)
