"""Restartable datatrove executors: what all of them share, and the one for this machine.

datatrove's executors do the bookkeeping (a log, statistics and a completion mark a task). Only their `run` is replaced.
Here, one pool serves every pipeline of a stage, so that modules are imported once, not once a pipeline; no manager
process is left behind by `kill -9`; and a worker that the system kills is an error, not a hang. `slurm.py` and
`ray.py` say what they replace.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import move_whole, write_atomic
from perdure.pipeline.core.locks import open_lock
from perdure.pipeline.core.manifest import refuse_link
from perdure.pipeline.core.open_files import allow_open_files
from perdure.pipeline.core.paths import RunPaths

TASKS = "tasks"
"""File of a pipeline's directory that says how many tasks it has."""
JOB = "job.json"
"""File of a pipeline's directory that says which Slurm array does its tasks, and how many a job."""
FULL = 1 << 20
"""Bytes below which a disk counts as full."""
STEPS = "perdure.pipeline.data.cleaning.steps"
PRELOAD = [
    "perdure.pipeline.data.cleaning.clean",
    *(f"{STEPS}.{path.stem}" for path in (Path(__file__).parents[1] / "cleaning/steps").glob("[a-z]*.py")),
    "perdure.pipeline.data.tokenise",
    "tokenizers",
]
"""Modules that the server imports from which workers are forked, so that no worker spends time on them."""
PRELOAD_SCORING = ["perdure.pipeline.data.score.scorer", "torch", "transformers.models.llama.modeling_llama"]
"""Imported as well where reference models will score documents; it takes seconds, and every scorer needs it."""


Execute = Callable[[list[PipelineStep], int, Path], list[Counter]]
"""Runs a pipeline: its steps, the number of tasks, and the directory of its bookkeeping; returns `Tasks.counts`."""


class Tasks(PipelineExecutor):
    """Bookkeeping of tasks that all executors share: locks, reasons of failures, counts.

    A task waits for its own twin, says why it failed where all machines can read it, and is counted when it is whole.
    """

    directory: Path
    tasks: int
    pipeline: list[PipelineStep]

    def begin(self) -> list[int]:
        """Records the number of tasks; returns the ranks that are still to be done."""
        record = self.directory / TASKS
        assert (
            not record.exists() or int(record.read_text()) == self.tasks
        )  # directories have names by the number
        write_atomic(record, f"{self.tasks}\n")
        return self.get_incomplete_ranks()

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        # The lock makes a task wait for its own twin: a worker that an earlier, killed run left behind.
        allow_open_files()
        self.directory.mkdir(parents=True, exist_ok=True)
        with os.fdopen(open_lock(self.directory / f"{rank:05d}.lock"), "w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            reason = self._reason(rank)
            reason.unlink(missing_ok=True)
            # A process may do several tasks, and steps add up what they count.
            steps, self.pipeline = self.pipeline, deepcopy(self.pipeline)
            try:
                return PipelineExecutor._run_for_rank(self, rank, local_rank, node_rank)
            except Exception as error:
                text = " ".join(str(error).split())
                write_atomic(
                    reason, text if isinstance(error, PerdureError) else f"{type(error).__name__}: {text}"
                )
                raise
            finally:
                self.pipeline = steps

    def failure(self, ranks: list[int], log: Callable[[int], Path]) -> PerdureError:
        """The error of tasks that ended unfinished; `log` finds a task's log."""
        first, *others = sorted(ranks, key=lambda rank: (not self._reason(rank).exists(), rank))
        reason = self._reason(first)
        if reason.exists():
            text = reason.read_text()
        elif shutil.disk_usage(self.directory).free < FULL:  # no room for a reason either
            text = "the disk is full"
        else:
            text = "it was killed (memory, time limit, lost node)"
        listed = ", ".join(map(str, others[:8])) + ", ..." * (len(others) > 8)
        return PerdureError(
            f"{self.directory.parent.name}: {self.directory.name}: task {first} of {self.tasks} failed: {text}; its log: "
            f"{log(first)}{f'; tasks {listed} are not whole either' if others else ''}. Mend the cause and run the same "
            "command again: whole tasks are kept"
        )

    def _reason(self, rank: int) -> Path:
        return self.directory / f"{rank:05d}.failed"

    def counts(self) -> list[Counter]:
        """Counts of every pipeline step that keeps statistics, in order, summed over the files that all tasks left."""
        totals: list[Counter] = [Counter() for step in self.pipeline if hasattr(step, "stats")]
        for rank in range(self.tasks):
            steps = json.loads((self.directory / "stats" / f"{rank:05d}.json").read_text())
            for total, step in zip(totals, steps, strict=True):
                for name, value in step["stats"].items():
                    total[name] += int(value["total"] if isinstance(value, dict) else value)
        return totals


class LocalExecutor(Tasks, LocalPipelineExecutor):
    """datatrove's local executor on worker processes that several pipelines share."""

    def __init__(self, steps: list[PipelineStep], tasks: int, pool: ProcessPoolExecutor, directory: Path):
        super().__init__(steps, tasks=tasks, logging_dir=str(directory))
        self.directory = directory
        self.pool = pool

    def __getstate__(self) -> dict:
        return self.__dict__ | {"pool": None}

    def run(self) -> list[Counter]:
        """Runs the tasks that have not completed yet.

        Returns:
            What `counts` does; earlier runs are included.

        Raises:
            PerdureError: If a worker was killed.
        """
        quietly = partial(self._run_for_rank, local_rank=1)  # datatrove logs the first one to the console
        try:
            list(self.pool.map(quietly, self.begin()))
        except BrokenProcessPool:
            raise PerdureError(
                f"{self.directory.name}: a worker process was killed, most likely for want of memory; lower "
                "data.workers or raise data.tasks, and run the same command again: finished parts are kept"
            ) from None
        assert not self.get_incomplete_ranks()
        return self.counts()


@contextmanager
def local(workers: int, scoring: bool) -> Iterator[Execute]:
    """Runs tasks in processes of this machine; arguments as for `worker_pool`."""
    with worker_pool(workers, scoring) as pool:
        yield executor_on(pool)


def executor_on(pool: ProcessPoolExecutor) -> Execute:
    """The executor that runs tasks in a pool of worker processes."""
    return lambda steps, tasks, directory: LocalExecutor(steps, tasks, pool, directory).run()


@contextmanager
def worker_pool(workers: int, scoring: bool) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes that end with their parent and print nothing.

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


def work_directory(out: Path, final: Path) -> Path:
    """The directory in which an artefact of a run is built."""
    return RunPaths(out).work / final.relative_to(out).as_posix().replace("/", ".")


@contextmanager
def building(out: Path, final: Path) -> Iterator[Path]:
    """The work directory of an artefact; what is built in its `artefact/` is moved into place at the end.

    What an interrupted run left there is used again, whole tasks only. Logs are kept in `<out>/logs/`.
    """
    work = work_directory(out, final)
    name = work.name
    refuse_link(work.parent)
    refuse_link(work)
    if not (work / "artefact").exists():
        shutil.rmtree(work, ignore_errors=True)  # what was left of finished work, half deleted
    shutil.rmtree(final, ignore_errors=True)  # half of one, whose `_SUCCESS` somebody removed
    (work / "artefact").mkdir(parents=True, exist_ok=True)
    for half_written in (work / "artefact").rglob(".*"):
        half_written.unlink()
    yield work
    for log in sorted(work.glob("*/logs/*.log")):
        kept = RunPaths(out).logs / name / f"{log.parent.parent.name}.{log.name}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(log, kept)
    final.parent.mkdir(parents=True, exist_ok=True)
    move_whole(work / "artefact", final)  # last, so that whatever else is here has no use from then on
    shutil.rmtree(work, ignore_errors=True)  # NFS keeps what a job that ends holds open; swept the next time
