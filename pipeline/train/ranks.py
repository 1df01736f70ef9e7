"""Starts the trainer's ranks on this machine, hands signals on to them, and ends them together.

Torchrun's elastic agent is not used: it restarts nothing here, and on a signal it gives workers half a minute, whatever
they are saving.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perdure.pipeline.core import logs
from perdure.pipeline.core.cores import number_of_cores
from perdure.pipeline.core.errors import PerdureError, Stopped
from perdure.pipeline.core.extras import require
from perdure.pipeline.core.gpu_settings import add_gpu_settings
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.train.process import STOP_SIGNALS

ABOVE = "the reason stands above"
"""What errors say of ranks, which have said why themselves."""
WORKER = "perdure.pipeline.train.worker"


@dataclass(frozen=True)
class Node:
    """This machine among those that hold a version's ranks.

    Attributes:
        count: Number of machines; each holds as many ranks.
        rank: This one's number, from 0.
        address: Where the first one is reached.
        port: Its port; 0 picks one, for a machine that is alone.
    """

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0


def start(directory: Path, world_size: int, task: str = "train", node: Node = Node()) -> None:
    """Runs a trainer's ranks to their end, or this machine's part of them.

    SIGTERM and SIGUSR1 are handed on to the ranks, which save and leave.

    Args:
        directory: A prepared version, or the evaluation of a finished one.
        world_size: Number of ranks, on all machines.
        node: This machine's place among others.
        task: `train` or `evaluate`.

    Raises:
        PerdureError: If a rank failed; it has said why on stderr.
        Stopped: If the ranks left because of a signal.
    """
    require("torch", "megatron")
    command = [sys.executable, "-m", WORKER, str(directory), task]
    ranks: list[subprocess.Popen] = []
    with handing_on(ranks) as received:
        try:
            for environment in rank_environments(world_size, node):
                ranks.append(_start_rank(command, environment))
                for number in received:  # meanwhile
                    ranks[-1].send_signal(number)
            status = _wait(ranks)
        except KeyboardInterrupt:
            _end(ranks)
            raise
    if received and (status == 0 or -status in received):  # the latter before they could listen
        raise Stopped
    if status:
        raise PerdureError(_failure_words(directory, task, status))
    if not is_finished(directory):  # the signal reached the ranks alone
        raise Stopped


def _failure_words(directory: Path, task: str, status: int) -> str:
    """What stopped, why, and what the same command does if it is run again; only training has checkpoints to go on from."""
    killed = status == -signal.SIGKILL
    why = (
        f"stopped (exit status {status}); {'killed, most likely because memory ran out' if killed else ABOVE}"
    )
    if task == "evaluate":
        return f"version {directory.parent.name}: measuring {why}"
    if "averaged" in (inputs := read_inputs(VersionPaths(directory))):
        return f"version {directory.name}: averaging {why}. Run the same command again: it begins anew"
    if "parents" in inputs:
        return f"version {directory.name}: merging {why}. Run the same command again: it begins anew"
    return f"version {directory.name}: training {why}. Run the same command again to go on from the last checkpoint"


def _start_rank(command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    """Starts a rank that is deaf to Ctrl-C: it would show a traceback, each of them. We end them instead."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.Popen(command, env=environment)
    finally:
        signal.signal(signal.SIGINT, handler)


def rank_environments(world_size: int, node: Node) -> list[dict[str, str]]:
    """What each rank of this machine inherits: torchrun's variables for several ranks, and the machine's settings."""
    common, here = dict(os.environ), world_size // node.count
    common.setdefault("OMP_NUM_THREADS", str(max(1, number_of_cores() // here)))
    if sys.platform == "linux" and node.count == 1:
        common.setdefault("GLOO_SOCKET_IFNAME", "lo")  # host names may resolve to nothing useful
    add_gpu_settings(common)
    common["PYTHONSAFEPATH"] = "1"
    common[logs.LEVEL] = logs.level_of_children()
    if world_size == 1:
        return [common]
    address = node.address if node.count > 1 else "127.0.0.1"  # which nobody else has to reach
    common |= {"MASTER_ADDR": address, "MASTER_PORT": str(node.port or free_port())}
    common["WORLD_SIZE"] = str(world_size)
    return [common | {"RANK": str(node.rank * here + rank), "LOCAL_RANK": str(rank)} for rank in range(here)]


@contextmanager
def handing_on(processes: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Hands signals that ask for a stop on to processes; yields those that came."""
    received: list[int] = []

    def hand_on(number: int, _frame: object) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: list[subprocess.Popen]) -> int:
    """Exit status of the first rank that failed, 0 if none did. The others, which wait for it in vain, are ended."""
    while None in (statuses := [rank.poll() for rank in ranks]) and not any(statuses):
        time.sleep(0.05)
    _end(ranks)
    return next((status for status in statuses if status), 0)


def _end(ranks: list[subprocess.Popen]) -> None:
    for rank in ranks:
        rank.kill()
        rank.wait()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
