"""Anchors as step hooks: what pulls fp32 weights towards those that the version started with, its parent's."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared
from torch import Tensor

from perdure.pipeline.model.step_hooks import State

PARENT, FISHER = "parent", "fisher"
"""Companions: the weights that the version started with, and the diagonal of the Fisher information there."""


@dataclass
class L2Pull:
    """Decoupled L2 anchor: after AdamW, w -= lr * strength * (w - parent) (L2-SP, arXiv 1802.01483, beside AdamW).

    Attributes:
        strength: Per unit of learning rate.
        sums: Of this rank's weights since `taken_penalty`: strength/2 * sum (w - parent)^2, float64 scalars.
    """

    strength: float
    sums: list[Tensor] = field(default_factory=list)
    companions = (PARENT,)

    def before(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Measures the penalty of the weights that the step begins with."""
        for weight, state in zip(weights, states, strict=True):
            if _counted_here(weight):
                norm = torch.linalg.vector_norm(weight - state[PARENT], dtype=torch.float64)
                self.sums.append(self.strength / 2 * norm**2)

    def after(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Moves every weight towards the parent's by the share lr * strength of the way."""
        for weight, state in zip(weights, states, strict=True):
            weight.lerp_(state[PARENT], lr * self.strength)


@dataclass
class FisherPull:
    """EWC (arXiv 1612.00796): adds strength * fisher * (w - parent) to the clipped gradient, before AdamW reads it.

    Attributes:
        strength: Of the penalty.
        sums: Of this rank's weights since `taken_penalty`: strength/2 * sum fisher (w - parent)^2, float64 scalars.
    """

    strength: float
    sums: list[Tensor] = field(default_factory=list)
    companions = (PARENT, FISHER)

    def before(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Adds the penalty's gradient, and measures the penalty."""
        for weight, state in zip(weights, states, strict=True):
            distance = weight - state[PARENT]
            pull = state[FISHER] * distance
            assert weight.grad is not None
            weight.grad.add_(pull, alpha=self.strength)
            if _counted_here(weight):
                self.sums.append(self.strength / 2 * pull.mul_(distance).sum(dtype=torch.float64))

    def after(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Does nothing."""


def taken_penalty(optimizer: MegatronOptimizer) -> float | None:
    """The penalty of the last step's anchors over all weights of the model, each counted once; None without one.

    All ranks call this, after every step that updated the weights.
    """
    (part,) = optimizer.chained_optimizers
    pulls = [hook for hook in part.optimizer.hooks if isinstance(hook, L2Pull | FisherPull)]
    if not pulls:
        return None
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    total = torch.zeros((), dtype=torch.float64, device=device)
    for pull in pulls:
        total += sum(pull.sums)
        pull.sums.clear()
    dist.all_reduce(total, group=part.get_grad_stats_parallel_group())
    return float(total)


def _counted_here(weight: Tensor) -> bool:
    """Whether no other rank counts the same weight: as Megatron decides for the gradient norm."""
    return param_is_not_shared(weight) and param_is_not_tensor_parallel_duplicate(weight)
