"""Starts the trainer's ranks on this machine: one process, or torchrun's elastic agent for several."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

from perdure.pipeline.errors import PerdureError

WORKER = "perdure.pipeline.train.worker"


def start(version_directory: Path, world_size: int) -> None:
    """Runs one version's trainer to its end.

    Args:
        version_directory: A prepared version.
        world_size: Number of ranks.

    Raises:
        PerdureError: If a rank failed; it has said why on stderr.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // world_size)))
    os.environ["PYTHONSAFEPATH"] = "1"
    if world_size == 1:
        status = subprocess.run([sys.executable, "-m", WORKER, str(version_directory)]).returncode
    else:
        status = _torchrun(version_directory, world_size)
    if status:
        raise PerdureError(
            f"version {version_directory.name}: training stopped (exit status {status}); the reason stands above. "
            "Run the same command again to go on from the last checkpoint"
        )


def _torchrun(version_directory: Path, world_size: int) -> int:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # repeats every failure at length
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size,
        run_id=version_directory.name,
        rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{_free_port()}",
        rdzv_configs={"rank": 0},
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", WORKER, str(version_directory))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
