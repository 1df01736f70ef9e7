"""Checkpoints: Megatron's distributed format, written beside and renamed, so that a directory is whole or absent."""

import errno
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.api import CheckpointException

from perdure.pipeline.manifest import SUCCESS, is_finished, read_json, write_atomic, write_json
from perdure.pipeline.train.model import unwrap

KEPT = 2
"""Checkpoints kept: the newest ones."""

OPTIMIZER_FORMAT = {"distrib_optim_sharding_type": "fully_reshardable"}
"""The only format of the distributed optimizer that survives a change of layout."""


def save_checkpoint(
    directory: Path, model: torch.nn.Module, optimizer: MegatronOptimizer, state: dict
) -> None:
    """Writes weights, optimizer states and `state`; then forgets all but the newest `KEPT` checkpoints.

    All ranks call this.

    Args:
        directory: The version's `checkpoints/`.
        model: The wrapped model.
        optimizer: Its optimizer.
        state: JSON-serialisable; holds at least `step`.
    """
    final = directory / f"step_{state['step']:06d}"
    partial = directory / f".{final.name}"
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    weights = unwrap(model).sharded_state_dict()
    contents = {
        "model": weights,
        "optimizer": optimizer.sharded_state_dict(weights, metadata=OPTIMIZER_FORMAT),
    }
    try:
        dist_checkpointing.save(contents, str(partial))
    except CheckpointException as error:  # torch's wrapper hides what befell its writer processes
        if os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial)) from None
        raise
    dist.barrier()
    if dist.get_rank() == 0:
        write_json(partial / "state.json", state)
        write_atomic(partial / SUCCESS, "")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in finished_checkpoints(directory)[:-KEPT]:
            shutil.rmtree(old)
    dist.barrier()


def load_checkpoint(directory: Path, model: torch.nn.Module, optimizer: MegatronOptimizer) -> None:
    """Restores weights and optimizer states in place from one checkpoint; all ranks call this."""
    weights = unwrap(model).sharded_state_dict()
    optimizer_states = optimizer.sharded_state_dict(weights, is_loading=True, metadata=OPTIMIZER_FORMAT)
    loaded = dist_checkpointing.load({"model": weights, "optimizer": optimizer_states}, str(directory))
    unwrap(model).load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])


def finished_checkpoints(directory: Path) -> list[Path]:
    """The whole checkpoints of a version, oldest first."""
    found = (path for path in directory.glob("step_*") if is_finished(path))
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def checkpoint_state(directory: Path) -> dict:
    """The `state` that was saved with a checkpoint."""
    return read_json(directory / "state.json")
