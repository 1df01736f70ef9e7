"""Reading ahead: a thread reads what is wanted next while the step computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 8
"""Micro-batches that are read ahead of the one that computes: enough for a disk that hesitates, and little memory."""

Wanted = TypeVar("Wanted")
Read = TypeVar("Read")


def read_ahead(
    read: Callable[[Wanted], Read], wanted: Iterable[Wanted], depth: int
) -> Generator[Read, None, None]:
    """What `read` returns for each of `wanted`, in order; one thread is up to `depth` reads ahead of who takes them.

    An error of a read is raised where its result is taken, and nowhere if it never is. Close the iterator to end the thread: at
    most the read that is under way is waited for.

    Args:
        read: Runs in the thread, one call at a time. It should use numpy alone: torch's modes and threads, and the GPU, belong
            to the thread that computes.
        wanted: What to read; may be endless.
        depth: 0: there is no thread, and what is taken is read then.
    """
    if depth == 0:
        yield from map(read, wanted)
        return
    pending: deque[Future[Read]] = deque()
    pool = ThreadPoolExecutor(1, "read-ahead")
    try:
        for each in wanted:
            pending.append(pool.submit(read, each))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
