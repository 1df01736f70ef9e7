"""Learning rate as a pure function of the step (no state, no import of torch)."""

import math
from itertools import pairwise

from perdure.pipeline.recipe import (
    AutoregressiveSchedule,
    ConstantSchedule,
    CosineSchedule,
    DecaySchedule,
    InfiniteSchedule,
    Schedule,
    WSDSchedule,
)

REUSE_RATIO = 100
"""Where a decay ends by default: this many times below its start (Parmar et al. 2024)."""


def learning_rate(schedule: Schedule, step: int, total_steps: int) -> float:
    """Learning rate after `step` of `total_steps`.

    Args:
        schedule: Its constants, resolved (see `resolve`).
        step: 0 (nothing trained) to `total_steps`; the n-th optimizer step, counted from 1, uses step n.
        total_steps: Length of the version in steps.

    Returns:
        The learning rate.

    Source:
        Ibrahim et al. 2024 (arXiv 2403.08763), section 4 and the authors' GPT-NeoX fork: linear warmup, then
        cosine re-decay, or the infinite schedule's cooldown, constant phase and exponential annealing. The others are
        cited at their fields in the recipe.
    """
    if isinstance(schedule, DecaySchedule):
        assert schedule.max_lr is not None and schedule.min_lr is not None
        return _decay(schedule.shape, schedule.max_lr, schedule.min_lr, step / total_steps)
    assert not isinstance(schedule, AutoregressiveSchedule)
    warmup_steps = round(schedule.warmup * total_steps)
    if step < warmup_steps:
        return schedule.max_lr * step / warmup_steps
    if isinstance(schedule, ConstantSchedule):
        return schedule.max_lr
    if isinstance(schedule, CosineSchedule):
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return _decay("cosine", schedule.max_lr, schedule.min_lr, progress)
    if isinstance(schedule, WSDSchedule):
        return _wsd(schedule, step, total_steps)
    return _infinite(schedule, step - warmup_steps, total_steps - warmup_steps, total_steps)


def resolve(
    schedule: Schedule, steps_before: int, total_steps: int, parents_rate: float | None
) -> ConstantSchedule | CosineSchedule | InfiniteSchedule | WSDSchedule | DecaySchedule:
    """Replaces what follows from a version's ancestors by numbers; a resume reads them from the checkpoint.

    Args:
        schedule: As in the recipe.
        steps_before: Optimizer steps of all ancestors.
        total_steps: Steps of this version.
        parents_rate: The parent's learning rate where this version starts; None without a parent.

    Returns:
        A schedule for `learning_rate`. The autoregressive one becomes the cosine with this version's peak,
        cosine_decay(step = steps_before + warmup, total = steps_before + total_steps) (TiC-LM, arXiv 2504.02107).
    """
    if isinstance(schedule, AutoregressiveSchedule):
        after_warmup = steps_before + total_steps - round(schedule.warmup * total_steps)
        peak = _decay("cosine", schedule.max_lr, schedule.min_lr, steps_before / max(1, after_warmup))
        return CosineSchedule(type="cosine", max_lr=peak, min_lr=schedule.min_lr, warmup=schedule.warmup)
    if isinstance(schedule, DecaySchedule):
        high = schedule.max_lr if schedule.max_lr is not None else parents_rate
        assert high is not None  # `check` asks for max_lr where there is no parent
        low = schedule.min_lr if schedule.min_lr is not None else high / REUSE_RATIO
        return schedule.model_copy(update={"max_lr": high, "min_lr": low})
    return schedule


def phase_of(schedule: Schedule, step: int, total_steps: int) -> str:
    """The phase of a resolved schedule after `step`: `warmup`, `cooldown`, `constant`, `annealing` or `decay`."""
    if isinstance(schedule, DecaySchedule):
        return "decay"
    assert not isinstance(schedule, AutoregressiveSchedule)
    warmup_steps = round(schedule.warmup * total_steps)
    if step < warmup_steps:
        return "warmup"
    if isinstance(schedule, InfiniteSchedule):
        if step - warmup_steps < round(schedule.cooldown * total_steps):
            return "cooldown"
        until = warmup_steps + round(schedule.constant_until * total_steps)
        return "constant" if step <= until else "annealing"
    if isinstance(schedule, WSDSchedule):
        return "constant" if _wsd(schedule, step, total_steps) == schedule.max_lr else "decay"
    return "constant" if isinstance(schedule, ConstantSchedule) else "decay"


def path_switching_cost(num_versions: int, alpha: float) -> float:
    """Steps for `num_versions` versions off one main path, relative to training each from scratch.

    Args:
        num_versions: Versions; each brings as much new data as the first.
        alpha: Share of a version's data that its branch trains on.

    Source:
        Wang et al. 2024: [(1 + alpha) Nv - alpha] T against Nv (Nv + 1) T / 2.
    """
    return ((1 + alpha) * num_versions - alpha) / (num_versions * (num_versions + 1) / 2)


def _decay(shape: str, high: float, low: float, progress: float) -> float:
    """From `high` at progress 0 to `low` at 1."""
    if shape == "cosine":
        return low + (high - low) / 2 * (1 + math.cos(math.pi * progress))
    if shape == "linear":
        return high + (low - high) * progress
    if shape == "exponential":
        return high * (low / high) ** progress
    return 1 / (progress / low + (1 - progress) / high)


def _wsd(schedule: WSDSchedule, step: int, total_steps: int) -> float:
    ends = [round(share * total_steps) for share in schedule.decay_ends]
    for begin, end in pairwise([0, *ends]):
        if step <= end:
            decay_steps = round(schedule.decay * (end - begin))
            if step <= end - decay_steps:
                break
            progress = 1 - (end - step) / decay_steps
            return _decay(schedule.decay_shape, schedule.max_lr, schedule.min_lr, progress)
    return schedule.max_lr


def _infinite(schedule: InfiniteSchedule, step: int, last_step: int, total_steps: int) -> float:
    """The rate after warmup: `step` and `last_step` are counted from its end, shares are of all steps."""
    high, constant = schedule.max_lr, schedule.constant_lr
    annealing_start = round(schedule.constant_until * total_steps)
    if step > annealing_start:
        progress = (step - annealing_start) / (last_step - annealing_start)
        return _decay("exponential", constant, schedule.min_lr, progress)
    cooldown_steps = round(schedule.cooldown * total_steps)
    if step >= cooldown_steps:
        return constant
    progress = step / cooldown_steps
    if schedule.cooldown_shape == "cosine":
        return _decay("cosine", high, constant, progress)

    def drop(x: float) -> float:
        return 1 / math.sqrt(1 + schedule.inverse_sqrt_alpha * x) - 1

    return high + (constant - high) * drop(progress) / drop(1)
