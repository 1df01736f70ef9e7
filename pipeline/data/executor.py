"""Running datatrove pipelines on this machine: one pool of processes for a whole stage, restartable, quiet.

datatrove's `LocalPipelineExecutor` does the bookkeeping (a log, statistics and a completion mark a task). Only its
`run` is replaced: one pool serves every pipeline of a stage, so that modules are imported once, not once a pipeline;
no manager process is left behind by `kill -9`; and a worker that the system kills is an error, not a hang.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from perdure.pipeline.errors import PerdureError

PRELOAD = ["perdure.pipeline.data.clean", "perdure.pipeline.data.shard", "tokenizers"]
"""Imported once by the server that workers are forked from."""
PRELOAD_SCORING = ["perdure.pipeline.data.scorer", "torch", "transformers.models.llama.modeling_llama"]
"""Imported as well where reference models will score documents; it takes seconds, and every scorer needs it."""


class Executor(LocalPipelineExecutor):
    """A `LocalPipelineExecutor` on a pool that outlives it."""

    def __init__(self, steps: list[PipelineStep], tasks: int, pool: ProcessPoolExecutor, directory: Path):
        super().__init__(steps, tasks=tasks, logging_dir=str(directory))
        self.directory = directory
        self.pool = pool

    def __getstate__(self) -> dict:
        return self.__dict__ | {"pool": None}

    def run(self) -> list[Counter]:
        """Runs the tasks that have not completed yet.

        Returns:
            Per pipeline step that keeps statistics, in order: its counts summed over all tasks, those of earlier
            runs included.

        Raises:
            PerdureError: If a worker was killed.
        """
        try:
            list(self.pool.map(self._run_for_rank, self.get_incomplete_ranks()))
        except BrokenProcessPool:
            raise PerdureError(
                f"{self.directory.name}: a worker process was killed, most likely for want of memory; lower "
                "data.workers or raise data.tasks, and run the same command again: finished parts are kept"
            ) from None
        assert not self.get_incomplete_ranks()
        return self.counts()

    def _run_for_rank(self, rank: int, local_rank: int = 1, node_rank: int = -1):
        # The lock makes a task wait for its own twin: a worker that an earlier, killed run left behind.
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"{rank:05d}.lock").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            return super()._run_for_rank(rank, local_rank, node_rank)

    def counts(self) -> list[Counter]:
        """Sums the statistics that every task left on disk, one counter a step."""
        totals: list[Counter] = [Counter() for step in self.pipeline if hasattr(step, "stats")]
        for rank in range(self.tasks):
            steps = json.loads((self.directory / "stats" / f"{rank:05d}.json").read_text())
            for total, step in zip(totals, steps, strict=True):
                for name, value in step["stats"].items():
                    total[name] += int(value["total"] if isinstance(value, dict) else value)
        return totals


@contextmanager
def worker_pool(workers: int, scoring: bool) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes that die with their parent and keep silent on the console.

    The first one of a run decides what its later ones find imported: `scoring` if any of them will score.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD + PRELOAD_SCORING * scoring)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(context.Value("i", 0),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def worker_number() -> int:
    """This process's number in its pool, from 0; tasks go to whichever worker is free, so a GPU belongs to a worker."""
    return _number


_number = 0


def _start_worker(started: Synchronized) -> None:
    """Numbers a worker, silences it (datatrove logs to files as well) and ties its life to its parent's."""
    global _number
    with started.get_lock():
        _number = started.value
        started.value += 1
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open for as long as the process lives
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool's processes are the parallelism

    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


@contextmanager
def building(out: Path, final: Path) -> Iterator[Path]:
    """A work directory for an artefact, which it builds in `artefact/` below; moved into place when done.

    What an interrupted run left there is used again, whole tasks only. Logs are kept in `<out>/logs/`.
    """
    name = final.relative_to(out).as_posix().replace("/", ".")
    work = out / "work" / name
    if not (work / "artefact").exists():
        shutil.rmtree(work, ignore_errors=True)  # what was left of finished work, half deleted
    shutil.rmtree(final, ignore_errors=True)  # half of one, whose `_SUCCESS` somebody removed
    (work / "artefact").mkdir(parents=True, exist_ok=True)
    yield work
    for log in sorted(work.glob("*/logs/*.log")):
        kept = out / "logs" / name / f"{log.parent.parent.name}.{log.name}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(log, kept)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(work / "artefact", final)  # last, so that whatever else is here has no use from then on
    shutil.rmtree(work)
