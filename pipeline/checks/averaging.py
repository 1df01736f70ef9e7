"""Checks of versions that average the checkpoints of another one."""

from collections.abc import Iterator
from itertools import pairwise

from perdure.pipeline.checks import versions
from perdure.pipeline.checks.versions import earlier
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.plan.averages import averaged_steps, averaged_weights, kept_to_average, no_checkpoints
from perdure.pipeline.recipe import Average, Recipe, Version

Problems = Iterator[Problem]
MOST_LISTED = 12
"""Steps that a message names one by one."""


def fields(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that exactly one field says which checkpoints, and none where the running average is taken."""
    start, where = version.start, f"versions.{name}.start"
    if not isinstance(start, Average):
        return
    given = [field for field in ("last", "steps") if getattr(start, field) is not None]
    if start.shape == "ema":
        for field in given:
            remedy = "has no use with `shape: ema`: the running average is in the last checkpoint"
            yield Problem(f"{where}.{field}", getattr(start, field), remedy)
        if recipe.training.ema is None:
            yield Problem(
                f"{where}.shape", "ema", "needs `training.ema`, the decay of the running average that is kept"
            )
    elif len(given) != 1:
        remedy = "either `last`, how many, or `steps`, which ones, should say what is averaged"
        yield Problem(f"{where}.last", start.last, remedy)
    if start.steps and any(later <= sooner for sooner, later in pairwise(start.steps)):
        yield Problem(f"{where}.steps", list(start.steps), "should rise")


def there(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that the checkpoints to average are, or will be, kept."""
    start, where = version.start, f"versions.{name}.start"
    if not isinstance(start, Average) or start.of not in earlier(recipe, name):
        return
    origin = recipe.versions[start.of]
    if origin.is_computed:
        kind = origin.start.type
        yield Problem(
            f"{where}.of",
            start.of,
            f"is a version by `{kind}`, which has no checkpoints; name one that trains",
        )
        return
    if origin.adapter is not None:
        remedy = (
            "trains an adapter, whose checkpoints hold its matrices apart from the weights; name one without"
        )
        yield Problem(f"{where}.of", start.of, remedy)
        return
    if any(True for check in (fields, _kept) for _ in check(recipe, name, version)):
        return
    kept, steps = kept_to_average(recipe, start.of), averaged_steps(recipe, start)
    keep = f"say so in versions.{start.of}.keep: a list of steps, or {{every: N}}"
    if start.last is not None and len(steps) < start.last:
        remedy = f"`{start.of}` keeps {len(steps)} of its own: {_listed(steps)}; {keep}"
        yield Problem(f"{where}.last", start.last, remedy)
        return
    if missing := [step for step in steps if step not in kept]:
        remedy = (
            f"`{start.of}` keeps no checkpoint of step {_listed(missing)}; it keeps {_listed(kept)}; {keep}"
        )
        yield Problem(f"{where}.steps", steps, remedy)
        return
    finished = [is_finished(recipe.paths.version(each).directory) for each in (start.of, name)]
    on_disk = recipe.paths.version(start.of).finished_checkpoints()
    gone = [step for step in averaged_weights(recipe, start) if step not in on_disk]
    if finished == [True, False] and gone:
        yield Problem(f"{where}.of", start.of, no_checkpoints(recipe, start.of, gone))


def _kept(recipe: Recipe, name: str, version: Version) -> Problems:
    """What is wrong with what the averaged version keeps, which is told of that one."""
    assert isinstance(version.start, Average)
    yield from versions.kept(recipe, version.start.of, recipe.versions[version.start.of])


def _listed(steps: list[int]) -> str:
    if len(steps) > MOST_LISTED:
        return f"{', '.join(map(str, steps[:3]))}, ..., {steps[-1]} ({len(steps):,} of them)"
    return ", ".join(map(str, steps))


CHECKS = (fields, there)
