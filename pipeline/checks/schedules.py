"""Checks of a version's learning rate."""

from collections.abc import Iterator
from itertools import pairwise

from perdure.pipeline.checks.versions import earlier
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.plan.lineage import parent_of, resolved_schedule
from perdure.pipeline.recipe import (
    AutoregressiveSchedule,
    CosineSchedule,
    DecaySchedule,
    InfiniteSchedule,
    Recipe,
    Version,
    WSDSchedule,
)

Problems = Iterator[Problem]


def rates(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that learning rates never rise from peak to end, and that a decay can reach its end."""
    where, schedule = f"versions.{name}.schedule", version.schedule
    if isinstance(schedule, DecaySchedule):
        parent = parent_of(version)
        if schedule.max_lr is None and parent is None:
            yield Problem(f"{where}.max_lr", None, "required: there is no parent whose learning rate goes on")
            return
        if parent is not None and parent not in earlier(recipe, name):
            return  # the parent's own problem
        schedule = resolved_schedule(recipe, name)
    falling = ("max_lr", "constant_lr", "min_lr")
    for higher, lower in pairwise(name for name in falling if hasattr(schedule, name)):
        high, low = getattr(schedule, higher), getattr(schedule, lower)
        if low > high:
            yield Problem(f"{where}.{lower}", low, f"should be at most {higher} ({high:g})")
    shape = getattr(schedule, "shape", None) or getattr(schedule, "decay_shape", None)
    if shape in ("exponential", "inverse") and getattr(schedule, "min_lr", None) == 0:
        yield Problem(f"{where}.min_lr", 0.0, f"should be above 0: the decay is {shape}")


def phases(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that warmup, constant phase and decays fit into the version."""
    where, schedule = f"versions.{name}.schedule", version.schedule
    if isinstance(schedule, InfiniteSchedule):
        until = schedule.constant_until
        if until < schedule.cooldown:
            yield Problem(
                f"{where}.constant_until", until, f"should be at least cooldown ({schedule.cooldown:g})"
            )
        if until < 1 <= until + schedule.warmup:
            remedy = f"leaves no step to anneal after warmup ({schedule.warmup:g}); should be lower, or 1"
            yield Problem(f"{where}.constant_until", until, remedy)
    elif isinstance(schedule, CosineSchedule | AutoregressiveSchedule) and schedule.warmup == 1:
        yield Problem(f"{where}.warmup", schedule.warmup, "should be below 1, to leave steps for the decay")
    elif isinstance(schedule, WSDSchedule):
        ends = schedule.decay_ends
        if any(later <= sooner for sooner, later in pairwise([0.0, *ends])):
            yield Problem(f"{where}.decay_ends", ends, "should rise, from above 0")
        elif schedule.warmup > (first := ends[0] * (1 - schedule.decay)):
            yield Problem(
                f"{where}.warmup", schedule.warmup, f"should end before the first decay ({first:g})"
            )


CHECKS = (rates, phases)
