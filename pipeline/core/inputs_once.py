"""Lists and fingerprints of input files, found once in a scope such as a command."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Found = TypeVar("Found")
_inputs: ContextVar[dict | None] = ContextVar("_inputs", default=None)
"""What was found of input files so far, in a scope of `inputs_read_once`; None outside."""


@contextmanager
def inputs_read_once() -> Iterator[None]:
    """A scope, such as one command, in which input files are listed and fingerprinted once, however often they are asked
    for."""
    if _inputs.get() is not None:
        yield
        return
    token = _inputs.set({})
    try:
        yield
    finally:
        _inputs.reset(token)


def of_inputs(key: Hashable, make: Callable[[], Found]) -> Found:
    """The result of `make` on input files, kept under a key in a scope of `inputs_read_once`; callers must not change it."""
    if (known := _inputs.get()) is None:
        return make()
    if key not in known:
        known[key] = make()
    return known[key]


def forget_inputs() -> None:
    """Drops what is kept of input files, after a wait during which they may have changed."""
    if (known := _inputs.get()) is not None:
        known.clear()
