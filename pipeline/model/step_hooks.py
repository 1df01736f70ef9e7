"""Step hooks: what acts on the fp32 weights beside AdamW, inside its step.

A hook sees the weights as the optimizer shards them, after gradients are reduced and clipped. Megatron copies them to bf16 and
gathers them afterwards, so a hook needs to know nothing of precision or layout. What a hook remembers of each weight are
companions: tensors in the optimizer's state, which checkpoints store like moments, under every layout.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor

State = dict[str, Tensor]
"""The optimizer's state of one weight: moments and companions by name, each float32, shaped as the weight."""


class StepHook(Protocol):
    """What a step does to fp32 weights besides AdamW's update."""

    @property
    def companions(self) -> tuple[str, ...]:
        """Names of the tensors that it keeps; each begins as a copy of the weights that the version starts with."""

    def before(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Changes the clipped gradients, `weight.grad`, right before AdamW reads them.

        Args:
            weights: float32, this rank's shards of those that have a gradient.
            states: Of each.
            step: The trainer's number of the step, from 1.
            lr: Learning rate of the step.
        """

    def after(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Changes the weights in place right after AdamW's update; arguments as for `before`."""


def install_hooks(optimizer: MegatronOptimizer, hooks: Sequence[StepHook]) -> None:
    """Lets hooks act in every step from now on, and makes the companions that are missing.

    Args:
        optimizer: Of `make_optimizer`; the model's weights, or checkpoints that are loaded next, are what companions begin as.
        hooks: Act in this order, before the update and after it.
    """
    names = [name for hook in hooks for name in hook.companions]
    for part in optimizer.chained_optimizers:
        part.optimizer.hooks = tuple(hooks)
        if not names:
            continue  # looking a state up makes an empty one, into which no checkpoint is loaded
        for weight in (weight for group in part.optimizer.param_groups for weight in group["params"]):
            state = part.optimizer.state[weight]
            for name in names:
                if "exp_avg" not in state:
                    state |= {key: torch.zeros_like(weight.data) for key in ("exp_avg", "exp_avg_sq")}
                if name not in state:
                    state[name] = weight.detach().clone()


def set_step(optimizer: MegatronOptimizer, step: int) -> None:
    """Tells hooks the trainer's number of the step that comes next."""
    for part in optimizer.chained_optimizers:
        part.optimizer.version_step = step
