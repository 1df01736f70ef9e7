"""What an expert looks at before a job of many nodes, in under two minutes.

Every rank runs this before training; by hand: `srun python -m perdure.launch.rank preflight VERSION_DIRECTORY`. Each looks at
its machine; then they tell one another, and the first one prints what differs or is amiss, with the machine's name. Training
starts only if nothing is.
"""

import importlib.metadata
import logging
import os
import shutil
import socket
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from perdure.launch.preflight_devices import LAST_WORDS, check_devices, meet
from perdure.pipeline.checks.open_files import files_needed
from perdure.pipeline.core import logs
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.formats import format_bytes
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.locks import lock
from perdure.pipeline.core.open_files import allow_open_files
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.model.choices import unavailable
from perdure.pipeline.model.shape import model_shape, num_parameters
from perdure.pipeline.recipe import Recipe, load_recipe

logger = logging.getLogger("perdure.launch.preflight")  # also when it is `__main__`

SECONDS = 60
"""Time for machines to meet, and then for devices to work; who is not heard of by then is an error as well."""
MAX_SKEW = 1.0
"""Seconds that clocks may differ: files' ages and logs are compared over machines."""
SLOW = 3.0
"""A link is slow if it takes so many times as long as the fastest."""
MESSAGE_BYTES = 32 << 20
"""Size of the message that every machine sends to the next one."""
MIN_SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm that NCCL and checkpoint writers want."""
EQUAL = (
    "python",
    "torch",
    "megatron-core",
    "triton",
    *("transformer_engine", "flash_attn_3"),
    "cuda",
    "nccl",
    "driver",
    "gpus",
    "gpu",
    "recipe",
    "tokenizer",
    "data",
)
"""Facts that must be the same on all machines."""


def facts(version_directory: Path) -> dict[str, Any]:
    """What one machine is and sees; nothing here talks to another one."""

    recipe = load_recipe(VersionPaths(version_directory).recipe)
    inputs = read_inputs(VersionPaths(version_directory))
    cuda = torch.cuda.is_available()
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = None
    shared = os.statvfs("/dev/shm")
    return {
        "node": name,
        "address": address,
        "python": sys.version.split()[0],
        **{
            package: _version(package)
            for package in ("torch", "megatron-core", "triton", "transformer_engine", "flash_attn_3")
        },
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "driver": _driver() if cuda else None,
        "gpus": torch.cuda.device_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "recipe": hash_file(VersionPaths(version_directory).recipe)[:8],
        "tokenizer": hash_file(Path(inputs["tokenizer"]) / "tokenizer.json")[:8],
        "data": ", ".join(
            f"{source} {_manifest_hash(Path(path))}" for source, path in inputs["data"].items()
        ),
        "interface": _interface(),
        "free_bytes": shutil.disk_usage(version_directory).free,
        "writes": write_failure(version_directory),
        "shared_memory_bytes": shared.f_blocks * shared.f_frsize,
        "open_files": allow_open_files(),
        "files_needed": files_needed(recipe),
        "kernels": unavailable(recipe.kernels, cuda),
    }


def problems(found: list[dict[str, Any]], checkpoint_bytes: int) -> list[str]:
    """What is amiss, a line each.

    Args:
        found: `facts` of every machine, each with `clock` (seconds, taken at the same moment) and `send_seconds` (to the
            next machine in the list, the last one to the first; None on a machine that is alone).
        checkpoint_bytes: Size of one checkpoint.
    """
    lines: list[str] = []
    for name in EQUAL:
        usual = Counter(machine[name] for machine in found).most_common(1)[0][0]
        lines += [
            f"{machine['node']}: {name} is {machine[name]}, elsewhere {usual}"
            for machine in found
            if machine[name] != usual
        ]
    clock = statistics.median_low([machine["clock"] for machine in found])
    for machine in found:
        lines += [f"{machine['node']}: {line}" for line in _alone(machine, checkpoint_bytes, len(found) > 1)]
        if abs(skew := machine["clock"] - clock) > MAX_SKEW:
            lines.append(
                f"{machine['node']}: its clock is {skew:+.1f} s off; at most {MAX_SKEW:.0f} s; start its time service"
            )
    return lines + list(_slow_links(found))


def checkpoint_bytes(recipe: Recipe, vocab_size: int) -> int:
    """Size of one checkpoint: weights, two fp32 moments, and under bf16 the fp32 weights."""
    per_parameter = {"fp32": 4 + 8, "bf16": 2 + 4 + 8}[recipe.training.precision]
    return num_parameters(model_shape(recipe), vocab_size) * per_parameter


def _alone(machine: dict[str, Any], checkpoint_bytes: int, others: bool) -> Iterable[str]:
    """What is amiss with one machine, whatever the others are like."""
    yield from filter(None, [machine["kernels"]])
    if others and (machine["address"] is None or machine["address"].startswith("127.")):
        yield (
            f"its name resolves to {machine['address'] or 'nothing'}; the others cannot reach that: repair /etc/hosts"
        )
    if machine["interface"]:
        yield machine["interface"]
    if machine["writes"]:
        yield machine["writes"]
    if machine["free_bytes"] < 2 * checkpoint_bytes:
        yield f"{format_bytes(machine['free_bytes'])} free, but two checkpoints take {format_bytes(2 * checkpoint_bytes)}"
    if machine["shared_memory_bytes"] < MIN_SHARED_MEMORY:
        there, needed = format_bytes(machine["shared_memory_bytes"]), format_bytes(MIN_SHARED_MEMORY)
        yield f"/dev/shm has {there}, at least {needed} are needed"
    if (allowed := machine["open_files"]) < (needed := machine["files_needed"]):
        yield f"{allowed:,} open files allowed, {needed:,} are needed: raise the hard limit (ulimit -Hn)"


def _slow_links(found: list[dict[str, Any]]) -> Iterable[str]:
    """Machines both of whose links are slow; where only one end's is, the link."""
    if len(found) < 3:  # there is one link, and nothing to compare it with
        return
    seconds = [machine["send_seconds"] for machine in found]
    slow = [value > SLOW * min(seconds) for value in seconds]
    bad = [slow[place] and slow[place - 1] for place in range(len(found))]
    usual = format_bytes(MESSAGE_BYTES / min(seconds))
    for place, machine in enumerate(found):
        rate = format_bytes(MESSAGE_BYTES / seconds[place])
        following = (place + 1) % len(found)
        if bad[place]:
            yield f"{machine['node']}: sends at {rate}/s, the fastest at {usual}/s"
        elif slow[place] and not bad[following]:
            yield f"{machine['node']} or {found[following]['node']}: their link carries {rate}/s, the fastest {usual}/s"


def main(version_directory: Path) -> int:
    """Exit status 0 if nothing is amiss; rank 0 says what is."""

    begun = time.monotonic()
    recipe, inputs = (
        load_recipe(VersionPaths(version_directory).recipe),
        read_inputs(VersionPaths(version_directory)),
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    mine = facts(version_directory)
    needed, wait = checkpoint_bytes(recipe, inputs["vocab_size"]), timedelta(seconds=SECONDS)
    try:
        store, missing = meet(mine["node"], wait)
        if missing:
            for line in [
                *filter(None, missing),
                *(f"{mine['node']}: {own}" for own in _alone(mine, needed, True)),
            ]:
                logger.error(f"error: preflight: {line}")
            time.sleep(LAST_WORDS)
            return 1
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=2 * wait)
        found = _exchange(mine)
        slow = check_devices(store, mine["node"], SECONDS)
    except ValueError as error:  # nobody has told torch who is here
        command = f"srun python -m perdure.launch.rank preflight {version_directory}"
        raise PerdureError(f"{' '.join(str(error).split())}; start it by: {command}") from None
    except RuntimeError as error:  # some machine did not come; each says what it knows of itself
        own = list(_alone(mine, needed, others=True))
        reason = "; ".join(own) or " ".join(str(error).split())[:200]
        logger.error(f"error: preflight: {mine['node']}: not all machines met within {SECONDS} s: {reason}")
        return 1
    lines = problems(found, needed) + slow
    if dist.get_rank() == 0:
        for line in lines:
            logger.error(f"error: preflight: {line}")
        seconds = time.monotonic() - begun
        logger.info(f"preflight: {len(found)} machines, {len(lines)} problems, {seconds:.0f} s")
    dist.barrier()
    dist.destroy_process_group()
    return 1 if lines else 0


def _exchange(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Every machine's facts, with its clock and the time of its link to the next one; equal on all ranks."""

    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine["node"])
    leaders = [everyone.index(node) for node in dict.fromkeys(everyone)]  # one rank a machine
    mine = mine | {"send_seconds": None}
    message = torch.empty(MESSAGE_BYTES, dtype=torch.uint8)
    for sender, receiver in zip(leaders, [*leaders[1:], leaders[0]]):
        dist.barrier()
        if sender == receiver:
            break
        for _ in range(2):  # the first one opens the connection
            started = time.perf_counter()
            if dist.get_rank() == sender:
                dist.send(message, receiver)
                dist.recv(message[:1], receiver)
                mine["send_seconds"] = time.perf_counter() - started
            elif dist.get_rank() == receiver:
                dist.recv(message, sender)
                dist.send(message[:1], sender)
    dist.barrier()
    mine["clock"] = time.time()
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return [gathered[rank] for rank in leaders]


def _interface() -> str | None:
    wanted = os.environ.get("GLOO_SOCKET_IFNAME")
    present = [name for _, name in socket.if_nameindex()]
    if wanted and wanted not in present:
        return f"no network interface {wanted} (cluster.network_interface); it has {', '.join(present)}"
    return None


def write_failure(directory: Path) -> str | None:
    """Why a file cannot be written, locked, read and renamed here, or None."""
    file = directory / f".preflight-{uuid.uuid4().hex}"
    try:
        with file.open("w") as opened:
            lock(opened.fileno(), directory)
            opened.write("perdure")
        renamed = file.rename(file.with_suffix(".done"))
        assert renamed.read_text() == "perdure"
        renamed.unlink()
    except OSError as error:
        return f"{directory} cannot be written: {error.strerror}"
    except PerdureError as error:
        file.unlink()
        return str(error)
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().splitlines()[0].split("  ")[1].strip() if version.exists() else None


def _manifest_hash(directory: Path) -> str:
    return hash_file(directory / "manifest.json")[:8]


if __name__ == "__main__":
    logs.configure(plain=True)
    try:
        sys.exit(main(Path(sys.argv[1])))
    except PerdureError as error:
        logger.error(f"error: preflight: {socket.gethostname()}: {error}")
        sys.exit(1)
