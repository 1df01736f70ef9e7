"""Time limit of a step for one document: the last resort against texts that are slow to process."""

import signal
import threading
from collections.abc import Callable
from typing import Any

SECONDS, SECONDS_PER_CHARACTER = 30.0, 2e-5
"""Processor time that a step may take for a document: twenty times what the slowest takes for text."""


class TooSlow(BaseException):
    """A call takes longer than it may; no `Exception`, which libraries catch and go on."""


def within_limit(call: Callable[..., Any], characters: int, *arguments: Any) -> Any:
    """Calls a function that works on so many characters.

    Signals end it: Python's own code and regular expressions, and C code as soon as it calls any of them. Threads other
    than the main one get no signals, and so no limit. Time is the process's own, whatever else the machine does.

    Raises:
        TooSlow: If it takes longer than such a function may.
    """
    if threading.current_thread() is not threading.main_thread():
        return call(*arguments)
    running = True

    def stop(*_: object) -> None:
        if running:
            raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    # Again every second: an exception that is raised while an object is deleted, for one, is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS + SECONDS_PER_CHARACTER * characters, 1.0)
    try:
        try:
            return call(*arguments)
        finally:
            running = False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
