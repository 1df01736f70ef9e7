"""Step hooks that average weights over steps: a running average (EMA), Elastic Reset, and Reptile."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.pipeline.model.step_hooks import State


@dataclass(frozen=True)
class RunningAverage:
    """Keeps a running average of the weights, and changes none: ema = decay ema + (1 - decay) weights.

    Attributes:
        decay: Between 0 and 1.
    """

    decay: float
    companions: tuple[str, ...] = ("ema",)

    def before(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Does nothing."""

    def after(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Moves the averages towards the weights; arguments as `StepHook` has them."""
        follow([state["ema"] for state in states], weights, self.decay)


@dataclass(frozen=True)
class ElasticResetHook:
    """Sets the weights to their running average at intervals, and the average to the first weights.

    Attributes:
        interval: Steps between resets.
        decay: Of the average, between 0 and 1.

    Source:
        Noukhovitch et al. 2023 (arXiv 2312.07551), algorithm 1: online <- average, then average <- initial.
    """

    interval: int
    decay: float
    companions: tuple[str, ...] = ("elastic_ema", "elastic_initial")

    def before(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Does nothing."""

    def after(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Moves the averages towards the weights and, at the end of an interval, resets both; arguments as `StepHook` has
        them."""
        averages = [state["elastic_ema"] for state in states]
        follow(averages, weights, self.decay)
        if step % self.interval == 0:
            for weight, average, state in zip(weights, averages, states, strict=True):
                weight.copy_(average)
                average.copy_(state["elastic_initial"])


@dataclass(frozen=True)
class ReptileHook:
    """Keeps a share of the way that the weights went in an interval: weights = a + rate (weights - a), then a = weights.

    Attributes:
        interval: Steps between drawings back.
        rate: Above 0, below 1.

    Source:
        Nichol et al. 2018 (arXiv 1803.02999), algorithm 1, with the steps of an interval as the task.
    """

    interval: int
    rate: float
    companions: tuple[str, ...] = ("reptile_anchor",)

    def before(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Does nothing."""

    def after(self, weights: Sequence[Tensor], states: Sequence[State], step: int, lr: float) -> None:
        """Draws the weights back at the end of an interval; arguments as `StepHook` has them."""
        if step % self.interval == 0:
            for weight, state in zip(weights, states, strict=True):
                weight.copy_(torch.lerp(state["reptile_anchor"], weight, self.rate))
                state["reptile_anchor"].copy_(weight)


def follow(averages: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """average = decay average + (1 - decay) weight, in place.

    Args:
        averages: float32.
        weights: float32, of the same shapes.
        decay: Between 0 and 1.
    """
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, 1 - decay)
