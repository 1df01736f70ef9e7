"""The step hooks of a version, as its recipe asks for them."""

from perdure.pipeline.model.step_hooks import StepHook
from perdure.pipeline.recipe import Recipe


def hooks_of(recipe: Recipe, name: str) -> tuple[StepHook, ...]:
    """What acts on a version's fp32 weights beside AdamW, in order; empty is plain AdamW."""
    return ()
