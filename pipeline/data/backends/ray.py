"""datatrove pipelines on a Ray cluster, by datatrove's `RayPipelineExecutor`.

Its bookkeeping is kept. Its `run` is not: that has every task forked by a pool inside an actor, which waits for ever if
the fork is killed, and returns in silence if tasks failed. Here they are plain tasks of Ray, and marks are counted.
"""

import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import ray
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from perdure.pipeline.core.cores import PASSIVE
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.backends.local import Execute, Tasks
from perdure.pipeline.recipe import RayTasks

CONNECT_SECONDS = 5
"""Time for an address to take a connection."""


@contextmanager
def cluster(where: RayTasks, workers: int, environment: dict[str, str], scoring: bool) -> Iterator[Execute]:
    """Connects to Ray, or starts one.

    Args:
        where: The cluster.
        workers: Tasks at the same time.
        environment: Variables of the tasks.
        scoring: Whether they score documents, which takes GPUs.

    Raises:
        PerdureError: If there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # text stays here, and so does word of it
    logger.disable("datatrove.executor.ray")  # it warns of a file system that machines share; ours has to be
    gpus = where.score_gpus * scoring
    variables = {"TOKENIZERS_PARALLELISM": "false", **PASSIVE} | (
        {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    )
    _listens(where.address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(
            address=where.address,
            runtime_env={"env_vars": variables | environment},
            include_dashboard=False if where.address is None and "RAY_ADDRESS" not in os.environ else None,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, ValueError) as error:
        raise PerdureError(f"data.executor: no Ray cluster answers: {' '.join(str(error).split())}") from None

    def execute(steps: list[PipelineStep], tasks: int, directory: Path) -> list[Counter]:
        return RayExecutor(steps, tasks, workers, gpus, directory.absolute()).run()

    try:
        if (there := ray.cluster_resources().get("GPU", 0)) < gpus:  # Ray would wait for them forever
            raise PerdureError(
                f"data.executor.score_gpus = {where.score_gpus}: the Ray cluster has {there:g} GPUs; 0 scores on CPUs"
            )
        yield execute
    finally:
        ray.shutdown()


def _listens(address: str) -> None:
    """Checks that an address answers; Ray would try for two minutes, and then end the process without an error."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return  # a name such as `auto`, or none at all, which Ray judges at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise PerdureError(
            f"data.executor: no Ray cluster answers at {address} ({error}); start one (`ray start --head`), or correct "
            "`data.executor.address` or RAY_ADDRESS, host:port of its head"
        ) from None


class RayExecutor(Tasks, RayPipelineExecutor):
    """Ray executor that raises an error if tasks fail."""

    def __init__(self, steps: list[PipelineStep], tasks: int, workers: int, gpus: int, directory: Path):
        super().__init__(steps, tasks, workers, logging_dir=str(directory), gpus_per_task=gpus)
        self.directory, self.home = directory, Path.cwd()

    def run(self) -> list[Counter]:
        """Runs the tasks that have not completed yet; a task whose worker is killed is tried again, by Ray.

        Returns:
            What `counts` does; earlier runs are included.

        Raises:
            PerdureError: If tasks failed; the others are waited for first.
        """
        ranks = iter(self.begin())
        task, executor = ray.remote(num_cpus=1, num_gpus=self.gpus_per_task)(run_rank), ray.put(self)
        running = [task.remote(executor, rank) for rank in islice(ranks, self.workers)]
        while running:
            _, running = ray.wait(running)
            running += [task.remote(executor, rank) for rank in islice(ranks, self.workers - len(running))]
        if missing := self.get_incomplete_ranks():
            raise self.failure(missing, lambda rank: self.directory / "logs" / f"task_{rank:05d}.log")
        return self.counts()


def run_rank(executor: RayExecutor, rank: int) -> None:
    """One task, on one of Ray's workers."""
    os.chdir(executor.home)  # relative paths start where the command was given
    executor._run_for_rank(rank)
