"""Starts the trainer's ranks on this machine: one process, or torchrun's elastic agent for several."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.pipeline.errors import PerdureError

WORKER = "perdure.pipeline.train.worker"


def start(version_directory: Path, world_size: int, task: str = "train") -> None:
    """Runs one version's trainer to its end.

    Args:
        version_directory: A prepared version.
        world_size: Number of ranks.
        task: `train`, or `evaluate` for a finished version.

    Raises:
        PerdureError: If a rank failed; it has said why on stderr.
    """
    arguments = [str(version_directory), task]
    with _environment(world_size):
        if world_size == 1:
            status = subprocess.run([sys.executable, "-m", WORKER, *arguments]).returncode
        else:
            status = _torchrun(arguments, world_size)
    if status:
        raise PerdureError(
            f"version {version_directory.name}: training stopped (exit status {status}); the reason stands above. "
            "Run the same command again to go on from the last checkpoint"
        )


@contextmanager
def _environment(world_size: int) -> Iterator[None]:
    """What ranks inherit; put back afterwards, so that later stages do not depend on what ran before them."""
    before = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // world_size)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # host names may resolve to nothing useful
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _torchrun(arguments: list[str], world_size: int) -> int:
    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # repeats every failure at length
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size,
        run_id=Path(arguments[0]).name,
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{_free_port()}",
        rdzv_configs={"rank": 0},
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", WORKER, *arguments)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
