"""Learning rate as a pure function of the step (no state, no import of torch)."""

import math

from perdure.pipeline.recipe import CosineSchedule, InfiniteSchedule


def learning_rate(schedule: CosineSchedule | InfiniteSchedule, step: int, total_steps: int) -> float:
    """Learning rate after `step` of `total_steps`.

    Args:
        schedule: Its constants.
        step: 0 (nothing trained) to `total_steps`; the n-th optimizer step, counted from 1, uses step n.
        total_steps: Length of the version in steps.

    Returns:
        The learning rate.

    Source:
        Ibrahim et al. 2024 (arXiv 2403.08763), section 4 and the authors' GPT-NeoX fork: linear warmup, then
        cosine re-decay, or the infinite schedule's cooldown, constant phase and exponential annealing.
    """
    warmup_steps = round(schedule.warmup * total_steps)
    if step < warmup_steps:
        return schedule.max_lr * step / warmup_steps
    if isinstance(schedule, CosineSchedule):
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return _cosine(schedule.max_lr, schedule.min_lr, progress)
    return _infinite(schedule, step - warmup_steps, total_steps - warmup_steps, total_steps)


def _cosine(high: float, low: float, progress: float) -> float:
    return low + (high - low) / 2 * (1 + math.cos(math.pi * progress))


def _infinite(schedule: InfiniteSchedule, step: int, last_step: int, total_steps: int) -> float:
    """The rate after warmup: `step` and `last_step` are counted from its end, shares are of all steps."""
    high, constant = schedule.max_lr, schedule.constant_lr
    annealing_start = round(schedule.constant_until * total_steps)
    if step > annealing_start:
        progress = (step - annealing_start) / (last_step - annealing_start)
        return constant * (schedule.min_lr / constant) ** progress
    cooldown_steps = round(schedule.cooldown * total_steps)
    if step >= cooldown_steps:
        return constant
    progress = step / cooldown_steps
    if schedule.cooldown_shape == "cosine":
        return _cosine(high, constant, progress)

    def drop(x: float) -> float:
        return 1 / math.sqrt(1 + schedule.inverse_sqrt_alpha * x) - 1

    return high + (constant - high) * drop(progress) / drop(1)
