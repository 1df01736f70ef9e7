"""Whether every device computes as fast as the others, and all of them reach one another; the part of the preflight that works.

Every rank marks in the store how far it is, and watches a clock beside its work: when that is over, whoever is ahead names
those that are behind. So a GPU that hangs has a name, and not the whole job a time-out.
"""

import json
import logging
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from perdure.pipeline.model.rendezvous import local_store

logger = logging.getLogger("perdure.launch.preflight")

PRODUCT = {"cuda": 8192, "cpu": 512}
"""Width of the square matrices that are multiplied, in bf16 on GPUs and fp32 on CPUs."""
PRODUCTS = 10
LEAST_SHARE = {"cuda": 0.8, "cpu": 1 / 3}
"""Of the median rate, below which a device is slow. Ranks of a CPU share its cores, and disturb one another."""
REDUCED_NUMBERS = 8 << 20
"""fp32 numbers that all ranks add up."""
LAST_WORDS = 3.0
"""Seconds that ranks stay when the time is over: schedulers end all ranks with the first that ends, and the first rank, which
holds the store, is asked by the others."""
STAGES = ("came", "multiplied", "reduced")
BEHIND = {
    None: "never came",
    "came": "has not finished a matrix product",
    "multiplied": "has not finished an all-reduce",
}
"""What is said of a rank by the last that it marked."""


def meet(node: str, wait: timedelta) -> tuple[Any, list[str]]:
    """The store of all ranks, and a line for each that has not come in time.

    Only the first of those that came gets these lines with the ranks that each machine has; the others get an empty one. All
    are to stay for `LAST_WORDS` then.

    Args:
        node: This machine's name.
        wait: How long the others are waited for.

    Raises:
        ValueError: If nobody has said who is here.
        RuntimeError: If the first rank cannot be reached.
    """

    if "RANK" not in os.environ:
        raise ValueError("environment variable RANK expected, but not set")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, rank == 0, wait
    begun = time.monotonic()
    store = local_store(wait, wait_for_all=False) or dist.TCPStore(*address, wait_for_workers=False)
    store.set(f"preflight/who/{rank}", json.dumps([node, os.environ.get("LOCAL_RANK", "0")]))
    mark(store, rank, "came")
    while not store.check([_stage_key(other) for other in range(world_size)]):
        if time.monotonic() - begun < wait.total_seconds():
            time.sleep(0.1)
            continue
        came = [other for other in range(world_size) if store.check([_stage_key(other)])]
        if len(came) == world_size:
            break
        nodes = Counter(json.loads(store.get(f"preflight/who/{other}"))[0] for other in came)
        here = ", ".join(f"{count} of {name}" for name, count in nodes.items())
        lines = [
            f"{line} within {wait.total_seconds():.0f} s; came: {here}"
            for line in behind(store, world_size, "came")
        ]
        return store, lines if rank == came[0] else [""]
    return store, []


def mark(store: Any, rank: int, stage: str) -> None:
    """Tells all how far a rank is."""
    store.set(_stage_key(rank), stage)


def _stage_key(rank: int) -> str:
    return f"preflight/stage/{rank}"


def behind(store: Any, world_size: int, stage: str) -> list[str]:
    """Ranks that have not come to a stage, each by its machine and device, and what is said of it."""
    found = []
    for rank in range(world_size):
        key = _stage_key(rank)
        last = store.get(key).decode() if store.check([key]) else None
        if last is None or STAGES.index(last) < STAGES.index(stage):
            found.append(f"{_who(store, rank)} {BEHIND[last]}")
    return found


def _who(store: Any, rank: int) -> str:
    key = f"preflight/who/{rank}"
    if not store.check([key]):
        return f"rank {rank}"
    node, device = json.loads(store.get(key))
    return f"{node}: {device_name(device)} (rank {rank})"


def device_name(local_rank: str | int) -> str:
    """A rank's device as its machine numbers them."""

    return f"GPU {local_rank}" if torch.cuda.is_available() else f"process {local_rank}"


@contextmanager
def watched(store: Any, rank: int, world_size: int, seconds: float) -> Iterator[None]:
    """Ends this process when the work inside takes longer, after naming who is behind.

    The first of those that are farthest says it. A call of CUDA may never return, so nothing waits for it.
    """
    over, asked = threading.Event(), store.clone()  # the store itself may be in use

    def watch() -> None:
        if over.wait(seconds):
            return
        try:
            stages = [asked.get(_stage_key(other)).decode() for other in range(world_size)]
            farthest = max(stages, key=STAGES.index)
            lines = late(asked, stages, seconds) if rank == stages.index(farthest) else []
        except RuntimeError as error:  # the first rank is gone, and the store with it
            lines = [
                f"rank {rank}: the first rank ended within {seconds:.0f} s: {str(error).splitlines()[0]}"
            ]
        for line in lines:
            logger.error(f"error: preflight: {line}")
        sys.stderr.flush()
        time.sleep(LAST_WORDS if rank == 0 or not lines else 0)
        os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def late(store: Any, stages: list[str], seconds: float) -> list[str]:
    """Who is behind the others when the time is over, a line each; or what none of them has done."""
    farthest = max(stages, key=STAGES.index)
    if lines := behind(store, len(stages), farthest):
        return [
            f"{line} within {seconds:.0f} s; {stages.count(farthest)} of {len(stages)} ranks have"
            for line in lines
        ]
    remedy = (
        ": look at cluster.network_interface, and at what NCCL_DEBUG=INFO says"
        if farthest == "multiplied"
        else ""
    )
    undone = BEHIND[farthest].replace("has not", "has")
    return [f"no rank {undone} within {seconds:.0f} s{remedy}"]


def check_devices(store: Any, node: str, seconds: float) -> list[str]:
    """Multiplies on every rank, adds up over all of them; what is amiss, a line each, equal on all ranks.

    Args:
        store: Of `meet`; the default process group is gloo's, over the same ranks.
        node: This machine's name.
        seconds: Time for both; who is behind by then is named, and all ranks end.
    """

    rank, world_size = dist.get_rank(), dist.get_world_size()
    mine: dict[str, Any] = {
        "node": node,
        "device": device_name(os.environ.get("LOCAL_RANK", "0")),
        "rank": rank,
    }
    with watched(store, rank, world_size, seconds):
        try:
            mine["tflops"] = product_rate()
        except RuntimeError as error:  # CUDA's own
            mine["failed"] = str(error).strip().splitlines()[0]
        mark(store, rank, "multiplied")
        found = _from_all(mine)
        if not any("failed" in one for one in found):
            try:
                mine |= reduce_all()
            except RuntimeError as error:  # NCCL's own; the others may wait in it, and cannot be asked
                _end(
                    store,
                    f"{_named(mine)} cannot add up with the others: {str(error).strip().splitlines()[0]}",
                )
            found = _from_all(mine)
        mark(store, rank, "reduced")
        dist.barrier()
    if rank == 0 and all("reduce_seconds" in one for one in found):
        rates = [one["tflops"] for one in found]
        slowest = max(one["reduce_seconds"] for one in found)
        logger.info(
            f"preflight: {len(found)} devices, products at {min(rates):.3g} to {max(rates):.3g} TFLOP/s, all-reduce of "
            f"{4 * REDUCED_NUMBERS / 1e6:.3g} MB in {slowest:.3g} s"
        )
    return problems(found)


def problems(found: list[dict[str, Any]]) -> list[str]:
    """Devices that failed, added up wrongly, or are slow beside the median, a line each.

    Args:
        found: By rank: `node`, `device`, `rank`; `tflops` or `failed`; `sum` and `expected` of the all-reduce.
    """

    lines = []
    least = LEAST_SHARE["cuda" if torch.cuda.is_available() else "cpu"]
    rates = [one["tflops"] for one in found if "tflops" in one]
    for one in found:
        who = _named(one)
        if "failed" in one:
            lines.append(f"{who} cannot multiply: {one['failed']}")
        elif one["tflops"] < least * (usual := statistics.median(rates)):
            share = one["tflops"] / usual
            lines.append(
                f"{who} multiplies at {one['tflops']:.3g} TFLOP/s, {share:.0%} of the median {usual:.3g}: every step would "
                "wait for it; look at its clocks and temperature, or leave the machine out"
            )
        if one.get("sum") != one.get("expected"):
            lines.append(f"{who} got {one['sum']:g} from an all-reduce whose sum is {one['expected']:g}")
    return lines


def _named(one: dict[str, Any]) -> str:
    """A rank's machine and device, of what it found."""
    return f"{one['node']}: {one['device']} (rank {one['rank']})"


def _end(store: Any, line: str) -> NoReturn:
    """Ends this process; the first rank that does so says why."""
    if store.add("preflight/failed", 1) == 1:
        logger.error(f"error: preflight: {line}")
    sys.stderr.flush()
    time.sleep(LAST_WORDS)
    os._exit(1)


def product_rate() -> float:
    """TFLOP/s of this rank's device in products of large matrices: the median; on CPUs, which others use, the best."""

    cuda = torch.cuda.is_available()
    size = PRODUCT["cuda" if cuda else "cpu"]
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    a, b = torch.randn(2, size, size, device=device).to(torch.bfloat16 if cuda else torch.float32)
    taken = []
    for _ in range(PRODUCTS + 2):
        begun = time.perf_counter()
        a @ b
        if cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    seconds = (statistics.median if cuda else min)(taken[2:])  # the first ones load libraries
    return 2 * size**3 / seconds / 1e12


def reduce_all() -> dict[str, Any]:
    """Adds up a number of each rank over all of them, over NCCL on GPUs: `sum`, `expected`, and `reduce_seconds`."""

    cuda, world_size = torch.cuda.is_available(), dist.get_world_size()
    group = dist.new_group(backend="nccl") if cuda else None
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    for _ in range(2):  # the first one opens connections
        numbers = torch.full((REDUCED_NUMBERS,), float(dist.get_rank() + 1), device=device)
        begun = time.perf_counter()
        dist.all_reduce(numbers, group=group)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
    found = {"sum": float(numbers.double().mean()), "expected": float(world_size * (world_size + 1) / 2)}
    if group is not None:
        dist.destroy_process_group(group)
    return found | {"reduce_seconds": seconds}


def _from_all(mine: dict[str, Any]) -> list[dict[str, Any]]:

    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
