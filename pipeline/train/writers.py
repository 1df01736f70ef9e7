"""What writes a checkpoint's files: a fork of the rank while training goes on, or the rank itself.

A fork sees the weights as they were, and shares the memory that does not change meanwhile.
"""

import os
import pickle
import queue
import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import (
    AsyncCallsQueue,
    AsyncRequest,
    _disable_gc,
)
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model import collectives

BEGIN_SECONDS, BEGIN_ATTEMPTS = 20.0, 5
"""How long a forked writer may take to begin, and how many are tried."""


def install(results: queue.Queue) -> None:
    """Makes Megatron write by `_write_files` and tell of it by this queue of a manager."""
    filesystem_async._results_queue = _Results(results)
    FileSystemWriterAsync.write_preloaded_data_multiproc = staticmethod(_write_files)


def fork(calls: AsyncCallsQueue, request: AsyncRequest, directory: Path) -> None:
    """Forks the writer; one that does not begin is killed, and another one forked.

    A fork can inherit a lock that another thread held at that moment, and wait for it forever. CPython 3.11's own
    lock of its list of threads is one (`PyOS_AfterFork_Child`, mended in 3.12): gloo's threads take it briefly.

    Args:
        calls: Megatron's queue of what is under way.
        request: What to write.
        directory: Where, for messages.

    Raises:
        PerdureError: If none begins.
    """
    _results().hashes = {}
    if request.async_fn is None:  # this rank has nothing to write
        calls.schedule_async_request(request)
        return
    for attempt in range(BEGIN_ATTEMPTS):
        with _pipe() as (begun, begin), _pipe() as (allowed, allow):
            forked = request._replace(async_fn=partial(_begin, begin, allowed, request.async_fn))
            if attempt == 0:
                calls.schedule_async_request(forked)
                caller = calls.async_calls[-1].async_caller
            else:
                caller.schedule_async_call(forked)
            if select.select([begun], [], [], BEGIN_SECONDS)[0] or not caller.process.is_alive():
                os.write(allow, b"!")
                return
            caller.process.kill()
            caller.process.join()
    raise PerdureError(
        f"{directory}: {BEGIN_ATTEMPTS} processes that should save have not begun within "
        f"{BEGIN_SECONDS:g} s each; training.async_checkpoint: false needs none"
    )


def write_here(request: AsyncRequest) -> None:
    """Writes in this process; all ranks wait for all."""
    _results().hashes = {}
    request._replace(async_fn=partial(_written_by_all, request.async_fn)).execute_sync()


def _written_by_all(write: Callable | None, *arguments) -> None:
    """Writes what this rank has to write, in its own process, and waits for all ranks."""
    if write is not None:
        write(*arguments)
    collectives.barrier()


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """A pipe's ends, for reading and for writing; a fork keeps its copies."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _begin(begin: int, allowed: int, write: Callable, *arguments) -> None:
    """Runs in the forked writer: says that it lives, and writes when it is told to, so that only one ever does."""
    os.write(begin, b"!")
    os.read(allowed, 1)
    write(*arguments)


class _Results:
    """Megatron's queue of what its writers have done, in bytes: a manager imports torch to hold anything of torch's.

    Attributes:
        hashes: Of the files that were written last, as `hash_files`; known once Megatron has taken the result.
    """

    def __init__(self, items: queue.Queue):
        self.items = items
        self.hashes: dict[str, dict] = {}

    def put(self, result: object, hashes: dict[str, dict]) -> None:
        self.items.put(pickle.dumps((result, hashes)))

    def get_nowait(self) -> object:
        result, self.hashes = pickle.loads(self.items.get_nowait())
        return result


def _results() -> _Results:
    return filesystem_async._results_queue


def written() -> dict[str, dict]:
    """Size and SHA-256 by name of the files that this rank wrote of the checkpoint that is being committed."""
    return _results().hashes


@_disable_gc()
def _write_files(
    transforms: list, _multi_storage: bool, _rank: int, buckets: list, results: _Results
) -> None:
    """Writes this rank's files by threads, as Megatron itself does from 0.17 on.

    Each file is hashed by the thread that wrote it, as it is read back from the system's memory: training does not wait for it.

    Megatron 0.16 forks for every file, and waits forever for a fork that the system has killed. A killed writer that
    is one process leaves `results` empty, which all ranks hear of.

    Args:
        transforms: Passed on to torch.
        buckets: Path, name and contents of every file.
        results: Gets what torch says of every file, or the first error; and hashes.
    """
    hashes = {}

    def write(number: int) -> tuple[int, list | Exception]:
        outcome: queue.SimpleQueue = queue.SimpleQueue()
        tasks: queue.Queue = queue.Queue()
        tasks.put(number)
        FileSystemWriterAsync.write_preloaded_data(
            transforms, number, buckets[number], outcome, tasks, use_fsync=True
        )
        told, path = outcome.get(), Path(buckets[number][0])
        if not isinstance(told[1], Exception):
            hashes[path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        return told

    with ThreadPoolExecutor(len(buckets)) as pool:
        outcomes = dict(pool.map(write, range(len(buckets))))
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]
    results.put(errors[0] if errors else outcomes, hashes)
