"""What a version has to do with the versions before it, as far as the recipe decides it, and where they are."""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from operator import neg
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import require_whole
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.plan.consumption import Ancestor
from perdure.pipeline.plan.domain_order import random_order
from perdure.pipeline.plan.mixture import (
    alone_shares,
    domain_steps,
    is_replayed,
    members,
    mixture_shares,
    same_mixture,
    trained_fraction,
)
from perdure.pipeline.plan.order import RANKED
from perdure.pipeline.plan.plan import num_steps, open_plan
from perdure.pipeline.plan.schedule import learning_rate, resolve
from perdure.pipeline.recipe import Branch, Init, Mixture, MixtureSource, Recipe, Schedule, Version
from perdure.pipeline.recipe.remembered import parent_of, remembered

FINEST = 1 << 64
"""Largest denominator of counts of samples that are foreseen."""


def models_needed(version: Version) -> list[str]:
    """Versions that must be finished before this one can be prepared, each once."""
    models = [
        getattr(version.start, "parent", None),
        version.selection.reference if version.selection else None,
        version.mixture.perplexity_model,
    ]
    return list(dict.fromkeys(model for model in models if model and "/" not in model))


def _steps_taken(recipe: Recipe, name: str) -> int:
    """Steps of its parent that lead to a version that has one."""
    start = recipe.versions[name].start
    assert not isinstance(start, Init)
    return start.step if isinstance(start, Branch) else num_steps(recipe, recipe.versions[start.parent])


@remembered
def ancestors(recipe: Recipe, name: str) -> list[tuple[str, int]]:
    """Every ancestor of a version, the oldest first, with the steps of it that lead to the version."""
    parent = parent_of(recipe.versions[name])
    if parent is None:
        return []
    return [*ancestors(recipe, parent), (parent, _steps_taken(recipe, name))]


@remembered
def steps_before(recipe: Recipe, name: str) -> int:
    """Steps of all ancestors that lead to a version."""
    parent = parent_of(recipe.versions[name])
    return 0 if parent is None else steps_before(recipe, parent) + _steps_taken(recipe, name)


@remembered
def resolved_schedule(recipe: Recipe, name: str) -> Schedule:
    """A version's schedule with everything that follows from its ancestors filled in, for `learning_rate`."""
    version, parents_rate = recipe.versions[name], None
    if (parent := parent_of(version)) is not None:
        length = num_steps(recipe, recipe.versions[parent])
        parents_rate = learning_rate(resolved_schedule(recipe, parent), _steps_taken(recipe, name), length)
    return resolve(version.schedule, steps_before(recipe, name), num_steps(recipe, version), parents_rate)


def kept_steps(recipe: Recipe, name: str) -> set[int]:
    """Steps of a version whose checkpoints are kept for good: those asked for, and those that branches start from."""
    branches = {
        version.start.step
        for version in recipe.versions.values()
        if isinstance(version.start, Branch) and version.start.parent == name
    }
    return branches | set(recipe.versions[name].keep)


def switch_steps(recipe: Recipe, name: str) -> list[int]:
    """The steps of a version after which each of `mixture.switches` holds, in a plan of its own (see `planned_phases`)."""
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
    """Whether a version reads on in its parent's own plan: a branch with the parent's mixture.

    Another `max_repetition` is no other mixture; another k is, if replay has a share of what is trained on.
    """
    version = recipe.versions[name]
    if not isinstance(version.start, Branch):
        return False
    return same_mixture(version, recipe.versions[version.start.parent])


@remembered
def plan_owner(recipe: Recipe, name: str) -> tuple[str, int]:
    """The version whose plan a version reads, itself or one that it reads on in, and the steps of that before its own."""
    start = recipe.versions[name].start
    if not (isinstance(start, Branch) and continues_parent(recipe, name)):
        return name, 0
    owner, steps = plan_owner(recipe, start.parent)
    return owner, steps + start.step


@remembered
def planned_phases(recipe: Recipe, name: str) -> list[tuple[int, dict[str, Fraction]]]:
    """The phases of a version's mixture, as far as they are planned: the step after which each begins, and its shares.

    A branch that reads on in its parent's plan is in the parent's phases, and stays in their last one. Domains one after
    another by similarity stand in the order of `sources` while theirs is not known (see `is_foreseen`).
    """
    start = recipe.versions[name].start
    if isinstance(start, Branch) and continues_parent(recipe, name):
        phases = planned_phases(recipe, start.parent)
        ends = [*(first for first, _ in phases[1:]), None]
        return [
            (max(0, first - start.step), shares)
            for (first, shares), end in zip(phases, ends)
            if end is None or end > start.step
        ]
    mixture, k = expected_mixture(recipe, name), trained_fraction(recipe.versions[name])
    if mixture.domain_order is None:
        starts = [0, *switch_steps(recipe, name)]
        return [(first, mixture_shares(mixture, part, k)) for part, first in enumerate(starts)]
    steps = domain_steps(mixture, num_steps(recipe, recipe.versions[name]))
    order = domain_sequence(recipe, name) or list(steps)
    firsts = accumulate((steps[domain] for domain in order), initial=0)
    return [(first, alone_shares(mixture, domain, k)) for domain, first in zip(order, firsts)]


@remembered
def domain_sequence(recipe: Recipe, name: str) -> list[str] | None:
    """The order of a version's domains that come one after another; None if only data will tell, and no plan has it yet."""
    mixture, start = recipe.versions[name].mixture, recipe.versions[name].start
    if isinstance(start, Branch) and continues_parent(recipe, name):
        return domain_sequence(recipe, start.parent)
    domains = list(mixture.sources)
    if mixture.domain_order == "random":
        return random_order(domains, recipe.seed)
    if mixture.domain_order != "similarity":
        return domains
    file = recipe.paths.version(name).plan / "plan.json"
    phases = read_json(file)["phases"] if file.exists() else []
    found = [next(iter(phase["counts"])) for phase in phases if phase["reason"] == "domain"]
    return found if sorted(found) == sorted(domains) else None


@remembered
def is_foreseen(recipe: Recipe, name: str) -> bool:
    """Whether what a version and its ancestors take is known before plans are: not if one of them is left on the way whose
    domains come one after another in an order that follows from data.
    """
    if (parent := parent_of(recipe.versions[name])) is None:
        return True
    whole = _steps_taken(recipe, name) == num_steps(recipe, recipe.versions[parent])
    return (whole or domain_sequence(recipe, parent) is not None) and is_foreseen(recipe, parent)


def planned_samples(recipe: Recipe, name: str, steps: int | None = None) -> dict[str, Fraction]:
    """Samples that a version will take from each place in its mixture; changes by held-out perplexity are not foreseen.

    Args:
        recipe: The whole recipe.
        name: The version.
        steps: Its first steps alone; default: all.
    """
    batch = recipe.training.global_batch_size
    last = num_steps(recipe, recipe.versions[name]) if steps is None else steps
    found = dict.fromkeys(members(expected_mixture(recipe, name)), Fraction(0))
    phases = planned_phases(recipe, name)
    ends = [*(first for first, _ in phases[1:]), last]
    for (first, shares), end in zip(phases, ends):
        for key, share in shares.items():
            found[key] += share * max(0, min(end, last) - first) * batch
    return found


@remembered
def consumed_before(recipe: Recipe, name: str) -> dict[str, Fraction]:
    """Samples that the ancestors of a version will have taken, by place in the mixture, as `planned_samples`."""
    if (parent := parent_of(recipe.versions[name])) is None:
        return {}
    found = dict(consumed_before(recipe, parent))
    for key, samples in planned_samples(recipe, parent, _steps_taken(recipe, name)).items():
        _add(found, key, samples)
    return found


def _add(counts: dict, key: Any, samples: Fraction) -> None:
    """Adds to a count, to within 2^-64 of a sample: exact ones of a thousand versions would have thousands of digits."""
    total = counts.get(key, Fraction(0)) + samples
    counts[key] = total if total.denominator <= FINEST else Fraction(round(total * FINEST), FINEST)


@remembered
def _streams_consumed(recipe: Recipe, name: str) -> dict[tuple, Fraction]:
    """`consumed_before` by place in the mixture and `stream_settings`."""
    if (parent := parent_of(recipe.versions[name])) is None:
        return {}
    found, mixture = dict(_streams_consumed(recipe, parent)), expected_mixture(recipe, parent)
    samples = planned_samples(recipe, parent, _steps_taken(recipe, name))
    for key, (_, member) in members(mixture).items():
        stream = key, stream_settings(mixture, member)
        _add(found, stream, samples[key])
    return found


def streams_before(recipe: Recipe, name: str) -> dict[str, Fraction]:
    """`consumed_before` of the streams that the version goes on in: the same place, order and documents."""
    mixture, consumed = expected_mixture(recipe, name), _streams_consumed(recipe, name)
    own = {key: stream_settings(mixture, member) for key, (_, member) in members(mixture).items()}
    taken = {key: consumed.get((key, settings), Fraction(0)) for key, settings in own.items()}
    return {key: taken.get(key, Fraction(0)) for key in consumed_before(recipe, name)}


def stream_settings(mixture: Mixture, member: MixtureSource) -> tuple:
    """What decides a place's documents and their order, besides the data."""
    judged = member.order in RANKED or member.lowest_perplexity is not None
    settings = member.order, member.buckets, member.lowest_perplexity
    return *settings, mixture.perplexity_model if judged else None


@remembered
def expected_mixture(recipe: Recipe, name: str) -> Mixture:
    """A version's mixture; what `replay.from_parents` will find is foreseen from the ancestors' plans."""
    mixture, start = recipe.versions[name].mixture, recipe.versions[name].start
    replay = mixture.replay
    if replay is None or not replay.from_parents:
        return mixture
    if isinstance(start, Branch) and continues_parent(recipe, name):
        return expected_mixture(recipe, start.parent)
    before = consumed_before(recipe, name)
    weights = {
        key.removeprefix("replay/"): float(samples) for key, samples in before.items() if is_replayed(key)
    }
    weights |= {key: float(samples) for key, samples in before.items() if not is_replayed(key)}
    sources = {
        source: MixtureSource(weight=weight, order=replay.order)
        for source, weight in weights.items()
        if weight
    }
    return mixture.model_copy(update={"replay": replay.model_copy(update={"sources": sources})})


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


def history(recipe: Recipe, name: str) -> list[Ancestor]:
    """The plans of a version's ancestors, the nearest first, and where each was left.

    Raises:
        PerdureError: If one is missing.
    """
    batch, found = recipe.training.global_batch_size, []
    for ancestor, steps in reversed(ancestors(recipe, name)):
        paths = recipe.paths.version(ancestor)
        if is_finished(paths.directory) and not is_finished(paths.plan):
            raise PerdureError(f"{paths.plan}: not whole; {remedy(paths.plan)}")
        if not is_finished(paths.plan):
            raise PerdureError(
                f"version {name}: its ancestor {ancestor} has no plan in {paths.directory}; `perdure run` trains all in order"
            )
        require_whole(paths.plan)
        plan = open_plan(paths.plan)
        end = plan.first_sample + steps * batch
        appended = [entry for entry in appended_phases(paths) if entry["first_sample"] < end]
        found.append((open_plan(paths.plan, appended=appended), end))
    return found


def history_of_plan(recipe: Recipe, name: str, found: Sequence[Ancestor]) -> Sequence[Ancestor]:
    """The `history` of the version whose plan a version reads, of its own."""
    owner, _ = plan_owner(recipe, name)
    return found if owner == name else found[len(found) - len(ancestors(recipe, owner)) :]


def appended_phases(version: VersionPaths) -> list[dict]:
    """Phases that training has added to a version's plan so far."""
    states = [path / "state.json" for path in version.finished_checkpoints().values()]
    record = version.record if version.record.exists() else states[-1] if states else None
    return read_json(record).get("phases", []) if record else []
