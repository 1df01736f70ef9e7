"""The guard: what a step with a broken or leaping loss leads to, as a function of the recipe and the losses so far.

Its state is part of the checkpoint's: `losses`, those of the last accepted steps, and `skipped`, the ranges of samples
that left no trace in the weights. The place in the plan never depends on it: step n always reads the n-th batch.
"""

import math
import statistics
from enum import IntEnum

import torch
import torch.distributed as dist

from perdure.pipeline.recipe import Guard


class Trouble(IntEnum):
    """What is wrong with a step; the highest of all ranks' counts."""

    NONE = 0
    SPIKE = 1
    NOT_FINITE = 2


def assess(guard: Guard, losses: list[float], loss: float, grad_norm: float) -> Trouble:
    """Judges a step before its update.

    Args:
        guard: The recipe's thresholds.
        losses: Mean losses of the last accepted steps, oldest first.
        loss: The step's mean loss, nats per token.
        grad_norm: Its gradient norm before clipping.
    """
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return Trouble.NOT_FINITE
    full = guard.on_spike != "ignore" and len(losses) == guard.spike_window
    if full and loss > guard.spike_factor * statistics.median(losses):
        return Trouble.SPIKE
    return Trouble.NONE


def remember(guard: Guard, losses: list[float], loss: float) -> list[float]:
    """The losses of the last accepted steps, one step on."""
    return [*losses, loss][-guard.spike_window :] if guard.on_spike != "ignore" else []


def rolls_back(guard: Guard) -> bool:
    """Whether a checkpoint of the very start is needed to roll back to."""
    return "rollback" in (guard.on_nan, guard.on_spike)


def agree(value: int) -> int:
    """The highest of all ranks' values: what one rank has noticed, all act on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    highest = torch.tensor(value, dtype=torch.int32, device=device)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return int(highest)
