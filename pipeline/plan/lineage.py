"""A version's lineage according to the recipe: ancestors, their steps, schedules, and checkpoints to keep."""

from bisect import bisect_left
from itertools import accumulate
from operator import neg

from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.plan.mixture import (
    same_mixture,
)
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.schedule import learning_rate, resolve
from perdure.pipeline.recipe import Branch, KeepEvery, KLAnchor, Recipe, Schedule, Version
from perdure.pipeline.recipe.remembered import parent_of, parents_of, remembered


def models_needed(version: Version) -> list[str]:
    """Versions that must be finished before this one can be prepared, each once."""
    models = [
        *parents_of(version),
        version.selection.reference if version.selection else None,
        version.scored_by,
        version.mixture.perplexity_model,
        *(version.adapter.orthogonal_to if version.adapter else ()),
        version.anchor.model if isinstance(version.anchor, KLAnchor) else None,
    ]
    return list(dict.fromkeys(model for model in models if model and "/" not in model))


def steps_taken(recipe: Recipe, name: str) -> int:
    """Number of the parent's steps before a version starts from it; the version must have a parent."""
    start, parent = recipe.versions[name].start, parent_of(recipe.versions[name])
    assert parent is not None
    return start.step if isinstance(start, Branch) else num_steps(recipe, recipe.versions[parent])


@remembered
def ancestors(recipe: Recipe, name: str) -> list[tuple[str, int]]:
    """All ancestors of a version, oldest first, each with the number of its steps that the version builds on."""
    parent = parent_of(recipe.versions[name])
    if parent is None:
        return []
    return [*ancestors(recipe, parent), (parent, steps_taken(recipe, name))]


def lineage(recipe: Recipe, name: str) -> list[str]:
    """A version and all that it comes from, each once; of a merge, all that it is computed from."""
    found = [name]
    for each in found:
        found += [parent for parent in parents_of(recipe.versions[each]) if parent not in found]
    return found


@remembered
def steps_before(recipe: Recipe, name: str) -> int:
    """Number of training steps of all ancestors that a version builds on."""
    parent = parent_of(recipe.versions[name])
    return 0 if parent is None else steps_before(recipe, parent) + steps_taken(recipe, name)


@remembered
def resolved_schedule(recipe: Recipe, name: str) -> Schedule:
    """A version's schedule with the values that depend on its ancestors filled in, for `learning_rate`.

    A computed version has that of its first parent; what starts from it goes on from the rate at which its path was left.
    """
    version, parents_rate = recipe.versions[name], None
    parent = parent_of(version)
    if version.is_computed and parent is not None:
        return resolved_schedule(recipe, parent)
    for ancestor, steps in reversed(ancestors(recipe, name)):
        if not recipe.versions[ancestor].is_computed:
            length = num_steps(recipe, recipe.versions[ancestor])
            parents_rate = learning_rate(resolved_schedule(recipe, ancestor), steps, length)
            break
    return resolve(version.schedule, steps_before(recipe, name), num_steps(recipe, version), parents_rate)


def kept_steps(recipe: Recipe, name: str) -> set[int]:
    """Steps of a version whose checkpoints are kept for good: those asked for, and those that branches start from."""
    branches = {
        version.start.step
        for version in recipe.versions.values()
        if isinstance(version.start, Branch) and version.start.parent == name
    }
    keep = recipe.versions[name].keep
    if isinstance(keep, KeepEvery):
        steps = num_steps(recipe, recipe.versions[name])
        return branches | set(range(keep.every, steps + 1, keep.every))
    return branches | set(keep)


def switch_steps(recipe: Recipe, name: str) -> list[int]:
    """The steps after which each of a version's `mixture.switches` holds, if the version has a plan of its own."""
    switches, steps = recipe.versions[name].mixture.switches, num_steps(recipe, recipe.versions[name])
    batch_tokens = recipe.training.seq_length * recipe.training.global_batch_size
    rates: list[float] = []
    if any(switch.at_lr is not None for switch in switches):
        schedule = resolved_schedule(recipe, name)
        rates = [learning_rate(schedule, step, steps) for step in range(steps + 1)]
    highest = max(rates, default=0.0)
    first = rates.index(highest) if rates else 0
    lowest = list(accumulate(rates[first:], min))
    """Since the peak."""
    found = []
    for switch in switches:
        if switch.at is not None:
            found.append(round(switch.at * steps))
        elif switch.at_tokens is not None:
            found.append(-(-switch.at_tokens // batch_tokens))
        else:
            assert switch.at_lr is not None
            fallen = bisect_left(lowest, -switch.at_lr * highest, key=neg)
            found.append(first + fallen - 1)
    return found


def continues_parent(recipe: Recipe, name: str) -> bool:
    """Whether a version continues in its parent's plan, as a branch with the parent's mixture does.

    Another `max_repetition` is no other mixture; another k is, if replay has a share of what is trained on.
    """
    version = recipe.versions[name]
    if not isinstance(version.start, Branch):
        return False
    return same_mixture(version, recipe.versions[version.start.parent])


@remembered
def plan_owner(recipe: Recipe, name: str) -> tuple[str, int]:
    """The version whose plan a version reads, which may be an ancestor, and the steps of that plan before its own."""
    start = recipe.versions[name].start
    if not (isinstance(start, Branch) and continues_parent(recipe, name)):
        return name, 0
    owner, steps = plan_owner(recipe, start.parent)
    return owner, steps + start.step


def missing_checkpoint(recipe: Recipe, start: Branch) -> str | None:
    """Why a branch cannot start: its checkpoint is not there, and its parent will not write it any more.

    Returns:
        The reason, naming the checkpoints that exist; None if the branch can start, or its parent comes there yet.
    """
    paths = recipe.paths.version(start.parent)
    found = paths.finished_checkpoints()
    if start.step in found or not (is_finished(paths.directory) or any(step > start.step for step in found)):
        return None
    steps = f"those of steps {', '.join(map(str, found))}" if found else "none"
    return (
        f"{start.parent} has no checkpoint of step {start.step} in {paths.checkpoints}; there are {steps}. "
        f"Branch off at one of them, or train {start.parent} anew: it then keeps this one"
    )
