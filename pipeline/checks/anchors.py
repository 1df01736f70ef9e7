"""Checks of a version's anchor: that there is something to hold on to and to learn, and that no step overshoots it."""

from collections.abc import Iterator

from perdure.pipeline.checks.versions import earlier
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.plan.lineage import parent_of, resolved_schedule, steps_taken
from perdure.pipeline.recipe import (
    AutoregressiveSchedule,
    DecaySchedule,
    FisherAnchor,
    Init,
    KLAnchor,
    L2Anchor,
    LlamaModel,
    Recipe,
    Version,
)
from perdure.pipeline.recipe.anchors import anchor_source

Problems = Iterator[Problem]
EXAMPLES = "use estimate: {examples: N, source: NAME}, which needs weights alone"


def parent(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the version starts from something that was trained."""
    if version.anchor and isinstance(version.start, Init) and isinstance(recipe.model, LlamaModel):
        remedy = "has no use with random weights; should be left out, or the version start from another one"
        yield Problem(f"versions.{name}.anchor", version.anchor.type, remedy)


def overshoot(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that no step pulls a weight beyond the parent's: learning rate times strength is at most 1."""
    schedule, without_parent = version.schedule, parent_of(version) is None
    if not isinstance(version.anchor, L2Anchor) or (
        isinstance(schedule, DecaySchedule) and schedule.max_lr is None and without_parent
    ):
        return  # the last: the schedule's own problem
    schedule = resolved_schedule(recipe, name)
    assert not isinstance(schedule, AutoregressiveSchedule) and schedule.max_lr is not None
    rate, strength = schedule.max_lr, version.anchor.strength
    if rate * strength > 1:
        remedy = (
            f"times the highest learning rate ({rate:g}) is {rate * strength:g}: a step would pull weights beyond the "
            f"parent's; should be at most {1 / rate:g}"
        )
        yield Problem(f"versions.{name}.anchor.strength", strength, remedy)


def fisher_source(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the source of a Fisher estimate exists."""
    if (source := anchor_source(version.anchor)) is not None and source not in recipe.sources:
        yield Problem(
            f"versions.{name}.anchor.estimate.source", source, f"no such source{near(source, recipe.sources)}"
        )


def fisher_moments(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the parent has, or will have, the checkpoint whose moments estimate the Fisher information."""
    if not isinstance(version.anchor, FisherAnchor) or version.anchor.estimate != "moments":
        return
    where = f"versions.{name}.anchor.estimate"
    if (wanted := parent_of(version)) is None:
        yield Problem(where, "moments", f"the initial model has no moments of AdamW; {EXAMPLES}")
        return
    if recipe.versions[wanted].is_computed:
        kind = recipe.versions[wanted].start.type
        yield Problem(where, "moments", f"`{wanted}` is a {kind}, which has no moments of AdamW; {EXAMPLES}")
        return
    paths, step = recipe.paths.version(wanted), steps_taken(recipe, name)
    gone = is_finished(paths.directory) and step not in paths.finished_checkpoints()
    if gone and not is_finished(recipe.paths.version(name).directory):
        remedy = (
            f"the checkpoint of `{wanted}` after step {step} is gone from {paths.checkpoints}; {EXAMPLES}"
        )
        yield Problem(where, "moments", remedy)


def compared(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that a KL anchor has tokens to compare, a teacher, and leaves something to learn."""
    if not isinstance(anchor := version.anchor, KLAnchor):
        return
    where = f"versions.{name}.anchor"
    if anchor.on == "replayed" and version.mixture.replay is None:
        remedy = "the mixture replays nothing; should have `mixture.replay`, or be all"
        yield Problem(f"{where}.on", anchor.on, remedy)
    if anchor.on == "all" and anchor.instead_of_loss:
        remedy = "would leave no cross entropy to learn new data from; should be false, or `on: replayed`"
        yield Problem(f"{where}.instead_of_loss", True, remedy)
    before = earlier(recipe, name)
    if anchor.model is not None and anchor.model not in before:
        remedy = f"should be an earlier version{near(anchor.model, before)}"
        yield Problem(f"{where}.model", anchor.model, remedy)


CHECKS = (parent, overshoot, fisher_source, fisher_moments, compared)
