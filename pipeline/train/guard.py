"""Policy for non-finite losses and loss spikes (`training.guard`), a function of the recipe and the losses so far.

Its state is part of the checkpoint's: `losses`, those of the last accepted steps, and `skipped`, the ranges of samples
that left no trace in the weights. The place in the plan never depends on it: step n always reads the n-th batch.
"""

import math
import statistics
from enum import IntEnum

import torch
import torch.distributed as dist

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.recipe import Guard


class StepVerdict(IntEnum):
    """What is wrong with a step; ranks act on the highest verdict of all."""

    NONE = 0
    SPIKE = 1
    NOT_FINITE = 2


def assess(guard: Guard, losses: list[float], loss: float, grad_norm: float) -> StepVerdict:
    """Judges a step before its update.

    Args:
        guard: The recipe's thresholds.
        losses: Mean losses of the last accepted steps, oldest first.
        loss: The step's mean loss, nats per token.
        grad_norm: Its gradient norm before clipping.
    """
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return StepVerdict.NOT_FINITE
    full = guard.on_spike != "ignore" and len(losses) == guard.spike_window
    if full and loss > guard.spike_factor * statistics.median(losses):
        return StepVerdict.SPIKE
    return StepVerdict.NONE


def remember(guard: Guard, losses: list[float], loss: float | None) -> list[float]:
    """The losses of the last accepted steps, one step on; None is that of a batch without a label that counts."""
    if guard.on_spike == "ignore":
        return []
    return losses if loss is None else [*losses, loss][-guard.spike_window :]


def rolls_back(guard: Guard) -> bool:
    """Whether a checkpoint of the very start is needed to roll back to."""
    return "rollback" in (guard.on_nan, guard.on_spike)


def action_on(guard: Guard, verdict: StepVerdict, skipped: int, what: str) -> str:
    """What becomes of a refused step: `skip` or `rollback`.

    Args:
        guard: The recipe's policy.
        verdict: Why it was refused.
        skipped: Ranges of samples skipped before.
        what: The step in words.

    Raises:
        PerdureError: If the policy is to stop, or `max_skips` is reached.
    """
    action = guard.on_nan if verdict is StepVerdict.NOT_FINITE else guard.on_spike
    if action == "stop" or skipped == guard.max_skips:
        limit = f" after {skipped} skipped ones (guard.max_skips)" if action != "stop" else ""
        remedy = "Lower schedule.max_lr, look at the step's samples, or let training.guard skip it"
        raise PerdureError(
            f"{what}{limit}; nothing of this step was saved. {remedy}; running the same command again goes on from "
            "the last checkpoint"
        )
    return action


def agree(value: int) -> int:
    """The highest of all ranks' values: what one rank has noticed, all act on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    highest = torch.full((), value, dtype=torch.int32, device=device)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return int(highest)
