"""The step hooks of a version, as its recipe asks for them."""

from perdure.pipeline.model.anchors import FisherPull, L2Pull
from perdure.pipeline.model.averaging_hooks import ElasticResetHook, ReptileHook, RunningAverage
from perdure.pipeline.model.step_hooks import StepHook
from perdure.pipeline.recipe import FisherAnchor, L2Anchor, Recipe


def hooks_of(recipe: Recipe, name: str) -> tuple[StepHook, ...]:
    """What acts on a version's fp32 weights beside AdamW, in order; empty is plain AdamW."""
    version, hooks = recipe.versions[name], list[StepHook]()
    if isinstance(version.anchor, L2Anchor):
        hooks.append(L2Pull(version.anchor.strength))
    if isinstance(version.anchor, FisherAnchor):
        hooks.append(FisherPull(version.anchor.strength))
    if reset := version.elastic_reset:
        hooks.append(ElasticResetHook(reset.interval, reset.ema))
    if reptile := version.reptile:
        hooks.append(ReptileHook(reptile.interval, reptile.rate))
    if recipe.training.ema is not None:  # last: it follows what the others made of the step
        hooks.append(RunningAverage(recipe.training.ema))
    return tuple(hooks)
