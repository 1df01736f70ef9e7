"""datatrove pipelines as Slurm arrays, one job per task, by datatrove's `SlurmPipelineExecutor`.

Its bookkeeping and what it does inside of a job are kept (`ranks_to_run.json`, the pickled executor). Submission is our
own: datatrove's leaves a path with a space unquoted, knows nothing of a site's setup and environment, and adds a job
that sums statistics to every pipeline. Nor does it wait; here, tasks are done when their marks are on disk, and failed
when the queue has forgotten their job before.

`python -m perdure.pipeline.data.backends.slurm FILE` is one job of an array.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dill
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from perdure.pipeline.core import logs
from perdure.pipeline.core.cores import sleep_while_waiting
from perdure.pipeline.core.files import read_json, write_atomic, write_json
from perdure.pipeline.core.slurm import in_queue, max_array_size, sbatch
from perdure.pipeline.data.backends.local import JOB, Execute, Tasks
from perdure.pipeline.data.backends.slurm_scripts import array_script
from perdure.pipeline.recipe import Recipe

logger = logging.getLogger(__name__)

EXECUTOR, RANKS = "executor.pik", "ranks_to_run.json"
"""Files of a pipeline's directory: the pickle, and the ranks of its newest array."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two looks at the marks and the queue."""
SETTLING = 3.0
"""Seconds after which a network file system shows marks that another machine wrote."""
MODULE = "perdure.pipeline.data.backends.slurm"


@contextmanager
def arrays(recipe: Recipe, scoring: bool) -> Iterator[Execute]:
    """Runs tasks as jobs of Slurm arrays; arguments as for `backends.remote_executor`."""

    def execute(steps: list[PipelineStep], tasks: int, directory: Path) -> list[Counter]:
        executor = SlurmExecutor(steps, tasks, recipe, scoring, directory.absolute())
        executor.finish()
        return executor.counts()

    yield execute


class SlurmExecutor(Tasks, SlurmPipelineExecutor):
    """Blocking Slurm executor."""

    def __init__(self, steps: list[PipelineStep], tasks: int, recipe: Recipe, scoring: bool, directory: Path):
        super().__init__(
            steps, tasks, time="", partition="", logging_dir=str(directory), requeue_signals=None
        )
        self.recipe, self.scoring, self.directory = recipe, scoring, directory
        self.job_name = f"{directory.parent.name}.{directory.name}"

    def finish(self) -> None:
        """Runs the unfinished tasks in a new array, or waits for the array of an earlier run.

        Raises:
            PerdureError: If sbatch refuses the array, or tasks fail; the others are waited for first.
        """
        missing, pause = self.begin(), FIRST_PAUSE
        record = self.directory / JOB
        job = read_json(record)["job"] if record.exists() else ""
        if missing and job and in_queue(job):
            logger.info(f"{self.job_name}: waiting for Slurm job {job} of an earlier run")
        elif missing:
            job = self._submit(missing)
            logger.info(f"{self.job_name}: {len(missing)} of {self.tasks} tasks are Slurm job {job}")
        while missing:
            ended = not in_queue(job)  # asked first, so that no mark can come in between
            if ended and self.get_incomplete_ranks():
                time.sleep(SETTLING)
            missing = self.get_incomplete_ranks()
            if missing and ended:
                raise self.failure(missing, lambda rank: self._log(rank, job))
            if missing:
                time.sleep(pause)
                pause = min(1.5 * pause, LONGEST_PAUSE)

    def _submit(self, ranks: list[int]) -> str:
        """Submits an array for some ranks and returns its id; a job has several ranks where Slurm allows fewer jobs."""
        self.tasks_per_job = -(-len(ranks) // max_array_size())
        jobs = -(-len(ranks) // self.tasks_per_job)
        (self.directory / "logs").mkdir(exist_ok=True)
        write_json(self.directory / RANKS, ranks)
        write_atomic(self.directory / EXECUTOR, dill.dumps(self, fmode=dill.CONTENTS_FMODE))
        script, arguments = self.directory / "array.sbatch", (str(self.directory / EXECUTOR),)
        write_atomic(
            script, array_script(self.recipe, self.job_name, self.scoring, script, (MODULE, *arguments))
        )
        throttled = f"--array=0-{jobs - 1}%{self.recipe.data.workers}"
        job = sbatch(script, self.job_name, [throttled], setup=self.recipe.cluster.handed_over)
        write_json(self.directory / JOB, {"job": job, "tasks_per_job": self.tasks_per_job})
        return job

    def _log(self, rank: int, job: str) -> Path:
        """The log of the job that had this rank."""
        ranks, size = (
            read_json(self.directory / RANKS, list),
            read_json(self.directory / JOB)["tasks_per_job"],
        )
        return self.directory / "logs" / f"slurm_{job}_{ranks.index(rank) // size}.log"


def main(file: str) -> None:
    """Runs the tasks of one job of an array."""
    sleep_while_waiting()
    logs.configure(plain=True)
    with Path(file).open("rb") as stream:
        executor = dill.load(stream)
    SlurmPipelineExecutor.run(executor)


if __name__ == "__main__":
    main(sys.argv[1])
