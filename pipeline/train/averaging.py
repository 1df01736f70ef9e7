"""Averages the weights of one run's checkpoints, on the ranks that hold them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensor, ShardedTensorFactory
from torch import Tensor

from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.train.checkpoint import load_tensors, sharded_weights

MASTERS = "optimizer.state.fp32_param"
"""Where checkpoints have the fp32 weights under bf16; under fp32 they are the model's own."""
RUNNING = "optimizer.state.ema"
"""Where checkpoints have the running average (`training.ema`)."""


def stored_names(precision: str, shape: str) -> str | None:
    """Under which name checkpoints have the fp32 weights that are averaged; None under the model's own names."""
    if shape == "ema":
        return RUNNING
    return MASTERS if precision == "bf16" else None


def fp32_weights(directory: Path, model: torch.nn.Module, name: str | None) -> dict[str, Tensor]:
    """A checkpoint's fp32 weights, or a companion of theirs, by the model's names; all ranks call this.

    Args:
        directory: A checkpoint of any layout.
        model: The wrapped model; it is not changed.
        name: See `stored_names`.

    Returns:
        float32, this rank's part of each of the model's weights.

    Raises:
        PerdureError: If the checkpoint is damaged, or holds anything but data.
    """
    wanted = {
        key: _elsewhere(leaf, name)
        for key, leaf in sharded_weights(model).items()
        if isinstance(leaf, ShardedBase)
    }
    return load_tensors({"weights": wanted}, directory)["weights"]


def _elsewhere(leaf: ShardedBase, name: str | None) -> ShardedBase:
    """A sharded weight as it is stored under another name, to be loaded in fp32 beside the model's."""
    key = f"{name}.{leaf.key}" if name else leaf.key
    place = torch.empty_like(leaf.data, dtype=torch.float32)
    if isinstance(leaf, ShardedTensor):
        return replace(leaf, key=key, data=place, dtype=place.dtype)
    assert isinstance(leaf, ShardedTensorFactory)  # a parameter that is stored as several tensors
    return replace(leaf, key=key, data=place)


@torch.no_grad()
def average(checkpoints: Mapping[Path, float], model: torch.nn.Module, name: str | None) -> None:
    """Sets a model's weights to the weighted sum of checkpoints': summed in fp64, rounded to fp32 once, then to the model's
    type.

    All ranks call this; a rank holds 12 bytes a parameter of its own for it.

    Args:
        checkpoints: Weights, summing to 1, by directory; any layouts.
        model: The wrapped model.
        name: See `stored_names`.

    Raises:
        PerdureError: If a checkpoint is damaged, or holds anything but data.
    """
    sums: dict[str, Tensor] = {}
    for directory, weight in checkpoints.items():
        for key, tensor in fp32_weights(directory, model, name).items():
            if key in sums:
                sums[key].add_(tensor.double(), alpha=weight)
            else:
                sums[key] = tensor.double() * weight
    own = unwrap(model).state_dict()
    for key, total in sums.items():
        own[key].copy_(total.float())
