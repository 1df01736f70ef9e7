"""Checkpoints: Megatron's distributed format, written beside and renamed, so that a directory is whole or absent.

All layouts write the same tensors under the same names (`optimizer.portable_state`), so that any of them can go on
from what another one wrote. `state.json` holds everything that is no tensor.
"""

import errno
import inspect
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace
from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject, ShardedObject
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
    get_default_save_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.api import CheckpointException

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import flush, write_atomic, write_json
from perdure.pipeline.core.paths import SUCCESS, VersionPaths
from perdure.pipeline.model import collectives
from perdure.pipeline.model.device import empty_host_cache
from perdure.pipeline.model.language_model import gather_weights, unwrap
from perdure.pipeline.model.optimizer import portable_state, restore_state, steps_taken
from perdure.pipeline.train import fence, writers
from perdure.pipeline.train.hashes import readable_errors, require_undamaged, write_hashes
from perdure.pipeline.train.pickles import refuse_code
from perdure.pipeline.train.process import helper_manager
from perdure.pipeline.train.saved import checkpoint_state, delete, set_aside, set_old_aside
from perdure.pipeline.train.state import TrainState

EXTRA_STATE = "_extra_state"
"""Torch's key for what a module keeps beside its tensors."""
_FULL = 1 << 20
"""Free bytes under which a failed write is a full disk's fault."""


class Checkpoints:
    """Writes one version's checkpoints; every rank has one, and all ranks call its methods together.

    Args:
        version_directory: The version; checkpoints stand in its `checkpoints/`.
        attempt: Number of this start (`fence.take`).
        asynchronous: A helper process writes while training goes on. It is a fork of the rank, so it sees the
            weights as they were, and shares the memory that does not change meanwhile.
        kept: Steps whose checkpoints are kept for good.
    """

    def __init__(self, version_directory: Path, attempt: int, asynchronous: bool, kept: Collection[int] = ()):
        self.kept = {f"step_{step:06d}" for step in kept}
        self.version_directory = version_directory
        self.directory = VersionPaths(version_directory).checkpoints
        self.attempt = attempt
        self.asynchronous = asynchronous
        self.queue = AsyncCallsQueue()
        # Megatron would start a manager that outlives a killed rank.
        self.manager = helper_manager()
        writers.install(self.manager.Queue())

    def save(self, model: torch.nn.Module, optimizer: MegatronOptimizer, state: TrainState) -> None:
        """Writes weights, optimizer states and `state`, after any write that is under way.

        Args:
            model: The wrapped model.
            optimizer: Its optimizer.
            state: After the step that it names.
        """
        self.wait()
        final = VersionPaths(self.version_directory).checkpoint(state.step)
        beside = self.directory / f".{final.name}.{self.attempt}"  # a stale start writes elsewhere
        if dist.get_rank() == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        collectives.barrier()
        gather_weights(model)
        weights = sharded_weights(model)
        contents = {"model": weights, "optimizer": portable_state(optimizer, weights)}
        with self._readable_errors():
            # What replicas hold alike, each of them writes a part of.
            strategy = FullyParallelSaveStrategyWrapper(
                get_default_save_sharded_strategy(), mpu.get_data_parallel_group()
            )
            request = dist_checkpointing.save(
                contents, str(beside), strategy, async_sharded_save=True, **_ASYNC_BY_MEGATRON
            )
            state = replace(state, optimizer_steps=steps_taken(optimizer))
            request.add_finalize_fn(partial(self.commit, beside, final, state))
            if self.asynchronous:
                writers.fork(self.queue, request, self.directory)
            else:
                writers.write_here(request)
                empty_host_cache()

    def poll(self) -> None:
        """Commits what has been written meanwhile."""
        if self.queue.get_num_unfinalized_calls():
            with self._readable_errors():
                finished = self.queue.maybe_finalize_async_calls(blocking=False)
            if finished:  # the fork that read the pinned copies is gone
                empty_host_cache()

    def wait(self) -> None:
        """Waits for the write that is under way, and commits it.

        Megatron's own waiting leaves ranks that have written in a collective, whose time may be over before the last one has.
        """
        for seconds in chain((0.01, 0.03, 0.1, 0.3), repeat(1.0)):
            self.poll()
            if not self.queue.get_num_unfinalized_calls():
                return
            time.sleep(seconds)

    def remove_partial(self) -> list[Path]:
        """Removes what earlier starts left half-written, on rank 0; returns it."""
        found = sorted(self.directory.glob(".step_*")) if dist.get_rank() == 0 else []
        for path in found:
            delete(path)
        return [path for path in found if path.suffix != ".old"]

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Brings to light what torch hides of its writers: a full disk, a killed one, or that a newer start has cleaned up."""
        try:
            yield
        except (
            CheckpointException,
            OSError,
            RuntimeError,
        ) as error:  # the last: torch.save, of a lost directory
            with fence.held(self.version_directory, self.attempt):
                pass
            # torch's writer may notice only that fewer bytes arrived than it wrote.
            full = shutil.disk_usage(self.directory).free < _FULL
            if full or os.strerror(errno.ENOSPC) in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory)) from None
            if isinstance(error, CheckpointException) and not error.failures:
                raise PerdureError(f"{self.directory}: nothing was saved; rank 0 says why") from None
            if isinstance(error, CheckpointException) and "results_queue should not be empty" in str(error):
                ranks = ", ".join(map(str, error.failures))
                raise PerdureError(
                    f"{self.directory}: a process that was saving (of rank {ranks}) was killed, most likely because "
                    "memory ran out; nothing of this save counts. training.async_checkpoint: false takes less memory"
                ) from None
            raise

    def commit(self, beside: Path, final: Path, state: TrainState) -> None:
        """Makes a written checkpoint whole and gives it its name, once all ranks have written; deletes old ones.

        Args:
            beside: Where its files are.
            final: Its name.
            state: What `state.json` will hold.
        """
        hashes = {
            name: entry for files in collectives.from_all(writers.written()) for name, entry in files.items()
        }
        if dist.get_rank() == 0:
            write_json(beside / "state.json", state.as_json())
            write_hashes(beside, self.version_directory, hashes)
            write_atomic(beside / SUCCESS, "")
            for path in (*beside.iterdir(), beside):
                flush(path)  # a name must not reach the disk before what it names
            with fence.held(self.version_directory, self.attempt):
                set_aside(final)
                beside.rename(final)
                flush(self.directory)
                set_old_aside(self.directory, self.kept)
            for path in self.directory.glob(".step_*.old"):
                delete(path)
        collectives.barrier()  # deleting terabytes takes time


_ASYNC_BY_MEGATRON = (
    {"async_strategy": "mcore"}  # from 0.17 on; its default there needs a package of NVIDIA's
    if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters
    else {}
)


def load_checkpoint(
    directory: Path,
    model: torch.nn.Module,
    optimizer: MegatronOptimizer,
) -> None:
    """Restores weights and optimizer states in place from one checkpoint of any layout; all ranks call this.

    Args:
        directory: The checkpoint.
        model: The wrapped model.
        optimizer: Its optimizer.

    Raises:
        PerdureError: If the checkpoint is damaged, or holds anything but data.
    """
    weights = sharded_weights(model)
    contents = {"model": weights, "optimizer": portable_state(optimizer, weights, loading=True)}
    loaded = load_tensors(contents, directory)
    restore_weights(model, loaded["model"])
    steps = checkpoint_state(directory).optimizer_steps
    assert steps is not None
    restore_state(optimizer, loaded["optimizer"], steps)


def load_weights(directory: Path, model: torch.nn.Module) -> None:
    """Restores the weights alone, in place, from one checkpoint of any layout; all ranks call this.

    Raises:
        PerdureError: If the checkpoint is damaged, or holds anything but data.
    """
    restore_weights(model, load_tensors({"model": sharded_weights(model)}, directory)["model"])


def restore_weights(model: torch.nn.Module, tensors: dict) -> None:
    """Takes over loaded weights. Extra states of layers are not stored; Transformer Engine's attention has one that Megatron
    does not list."""
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(EXTRA_STATE)}
    missing, unexpected = unwrap(model).load_state_dict(found, strict=False)
    missing = [name for name in missing if not name.endswith(EXTRA_STATE)]
    assert not missing and not unexpected, (missing, unexpected)


def load_tensors(contents: dict, directory: Path) -> dict:
    """What dist_checkpointing loads; what replicas hold alike, each of them reads a part of, and tells the others.

    All ranks call this.

    Args:
        contents: A tree of sharded tensors.
        directory: A checkpoint of any layout.

    Returns:
        The tree of tensors.

    Raises:
        PerdureError: If the checkpoint is damaged, or holds anything but data.
    """
    require_undamaged(directory)
    refuse_code(directory)
    with readable_errors(directory):
        strategy = FullyParallelLoadStrategyWrapper(
            get_default_load_sharded_strategy(str(directory)), mpu.get_data_parallel_group()
        )
        return dist_checkpointing.load(contents, str(directory), strategy)


def sharded_weights(model: torch.nn.Module) -> dict:
    """Megatron's sharded weights. The extra states of its layers are empty, and pickles: they are not stored."""
    return dict_list_map_inplace(
        lambda leaf: LocalNonpersistentObject(None) if isinstance(leaf, ShardedObject) else leaf,
        unwrap(model).sharded_state_dict(),
    )
