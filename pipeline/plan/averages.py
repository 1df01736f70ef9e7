"""The weights of an average of one run's checkpoints, and the learning-rate decay that it equals.

A checkpoint is the first one plus all updates since. So a sum with weights c_0, .., c_m over checkpoints 0, .., m takes the
updates between checkpoints i - 1 and i with the weight w_i = c_i + .. + c_m: what a decayed rate would have done to the same
updates (WSM, arXiv 2507.17634).
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

from perdure.pipeline.plan.lineage import kept_steps
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import KeepEvery, Recipe, Version
from perdure.pipeline.recipe.averages import Average, Shape

EMA_TIMES = 5
"""Length of the decay that a running average equals, in times 1 / (1 - d): updates before count by more than 99%."""


def update_weights(shape: Shape, steps: Sequence[int]) -> list[float]:
    """The weight w_i of the updates before each checkpoint but the first: the share of their rate that the average equals.

    Args:
        shape: The decay: `uniform` would reach 0 one interval after the last checkpoint, `linear` and `inverse_sqrt` (1 - the
            square root of the way) reach it at the last one.
        steps: Of the checkpoints, rising; with `linear` and `inverse_sqrt` each stands where it is on the way.
    """
    if shape == "uniform":
        return [1 - i / len(steps) for i in range(1, len(steps))]
    ways = [(step - steps[0]) / (steps[-1] - steps[0]) for step in steps[1:]]
    return [1 - (way if shape == "linear" else sqrt(way)) for way in ways]


def checkpoint_weights(shape: Shape, steps: Sequence[int]) -> list[float]:
    """The weight c_j of each checkpoint, summing to 1: c_0 = 1 - w_1, c_j = w_j - w_(j + 1); arguments as for
    `update_weights`."""
    if shape == "uniform":
        return [1 / len(steps)] * len(steps)
    return [high - low for high, low in pairwise([1.0, *update_weights(shape, steps), 0.0])]


def decay_factor(shape: Shape, steps: Sequence[int], ema: float | None, step: int) -> float:
    """The share of its learning rate that the update of a step counts by in an average.

    Args:
        shape: The decay.
        steps: Of the checkpoints, rising; with `ema` the last step alone.
        ema: Decay d of the running average: w = 1 - d^(updates from this one on).
        step: Of the update, from 1 to that of the last checkpoint.
    """
    if shape == "ema":
        assert ema is not None
        return 1 - ema ** (steps[-1] + 1 - step)
    number = bisect_left(steps, step)
    return update_weights(shape, steps)[number - 1] if number else 1.0


def decay_begins(start: Average, steps: Sequence[int], ema: float | None) -> int:
    """The step after which updates count by less than their rate; with `ema`, by less than 99% of it."""
    if start.shape == "ema":
        assert ema is not None
        return max(0, steps[-1] - round(EMA_TIMES / (1 - ema)))
    return steps[0]


def kept_to_average(recipe: Recipe, name: str) -> list[int]:
    """Steps of a version that are there to be averaged once it is finished: those that are kept, and its last one."""
    return sorted(kept_steps(recipe, name) | {num_steps(recipe, recipe.versions[name])})


def averaged_steps(recipe: Recipe, start: Average) -> list[int]:
    """Steps of the checkpoints that a version averages; with `ema` that of the one that holds the running average."""
    version = recipe.versions[start.of]
    if start.steps is not None:
        return list(start.steps)
    last, keep = num_steps(recipe, version), version.keep
    named = range(keep.every, last + 1, keep.every) if isinstance(keep, KeepEvery) else keep
    return sorted({*named, last})[-(start.last or 1) :]


def with_steps(recipe: Recipe, version: Version) -> Version:
    """A version whose average of the `last` checkpoints names their steps, so that it does not move if more are kept."""
    start = version.start
    if not isinstance(start, Average) or start.last is None:
        return version
    steps = tuple(averaged_steps(recipe, start))
    return version.model_copy(update={"start": start.model_copy(update={"last": None, "steps": steps})})


def averaged_weights(recipe: Recipe, start: Average) -> dict[int, float]:
    """The weight of each checkpoint that a version averages, by its step; those without weight are left out."""
    steps = averaged_steps(recipe, start)
    weights = [1.0] if start.shape == "ema" else checkpoint_weights(start.shape, steps)
    return {step: weight for step, weight in zip(steps, weights, strict=True) if weight}


def no_checkpoints(recipe: Recipe, name: str, steps: Sequence[int]) -> str:
    """That a finished version has no checkpoints of some steps, and of which it has, in words."""
    paths = recipe.paths.version(name)
    there = ", ".join(map(str, paths.finished_checkpoints())) or "none"
    return (
        f"{name} is finished and has no checkpoint of step {', '.join(map(str, steps))} in {paths.checkpoints}; there are: "
        f"{there}. Average some of these, or train {name} anew: it then keeps what `keep` names"
    )
