"""Forecast of what versions read, from the recipe alone: phases of their mixtures, and samples by place in the mixture."""

from fractions import Fraction
from itertools import accumulate
from typing import Any

from perdure.pipeline.core.files import read_json
from perdure.pipeline.plan.domain_order import random_order
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.lineage import continues_parent, steps_taken, switch_steps
from perdure.pipeline.plan.mixture import (
    alone_shares,
    domain_steps,
    is_replayed,
    members,
    mixture_shares,
    trained_fraction,
)
from perdure.pipeline.plan.order import RANKED
from perdure.pipeline.plan.packing import packing_of
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.withdrawn import forgotten_sources
from perdure.pipeline.recipe import Branch, Mixture, MixtureSource, Recipe
from perdure.pipeline.recipe.remembered import parent_of, remembered

FINEST = 1 << 64
"""Largest denominator of counts of samples that are foreseen."""


@remembered
def planned_phases(recipe: Recipe, name: str) -> list[tuple[int, dict[str, Fraction]]]:
    """The phases of a version's mixture, as far as they are planned: the step after which each begins, and its shares.

    A branch that reads on in its parent's plan is in the parent's phases, and stays in their last one. Domains one after
    another by similarity stand in the order of `sources` while theirs is not known (see `is_foreseen`). A computed version
    reads nothing.
    """
    start = recipe.versions[name].start
    if recipe.versions[name].is_computed:
        return []
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
    """The order of domains that a version trains on one after another; None if it depends on data and no plan exists yet."""
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
    whole = steps_taken(recipe, name) == num_steps(recipe, recipe.versions[parent])
    return (whole or domain_sequence(recipe, parent) is not None) and is_foreseen(recipe, parent)


def planned_samples(recipe: Recipe, name: str, steps: int | None = None) -> dict[str, Fraction]:
    """Samples that a version will take from each place in its mixture, without changes by `reweight`.

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
    """Samples that a version's ancestors will have taken, by place in the mixture, as in `planned_samples`."""
    if (parent := parent_of(recipe.versions[name])) is None:
        return {}
    found = dict(consumed_before(recipe, parent))
    for key, samples in planned_samples(recipe, parent, steps_taken(recipe, name)).items():
        _add(found, key, samples)
    return found


def _add(counts: dict, key: Any, samples: Fraction) -> None:
    """Adds to a count, rounded to 2^-64 of a sample: exact fractions of long lineages would have thousands of digits."""
    total = counts.get(key, Fraction(0)) + samples
    counts[key] = total if total.denominator <= FINEST else Fraction(round(total * FINEST), FINEST)


@remembered
def _streams_consumed(recipe: Recipe, name: str) -> dict[tuple, Fraction]:
    """`consumed_before` by place in the mixture and `stream_settings`."""
    if (parent := parent_of(recipe.versions[name])) is None:
        return {}
    found, mixture = dict(_streams_consumed(recipe, parent)), expected_mixture(recipe, parent)
    samples = planned_samples(recipe, parent, steps_taken(recipe, name))
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
    """Settings that decide the documents of a place in a mixture and their order, besides the data."""
    judged = member.order in RANKED or member.lowest_perplexity is not None
    settings = member.order, member.buckets, member.lowest_perplexity, member.packing, member.overlong
    return *settings, mixture.perplexity_model if judged else None


@remembered
def expected_mixture(recipe: Recipe, name: str) -> Mixture:
    """A version's mixture, with the sources that `replay.from_parents` will find forecast from the ancestors' mixtures."""
    mixture, start = recipe.versions[name].mixture, recipe.versions[name].start
    replay = mixture.replay
    if replay is None or not replay.from_parents:
        return mixture
    if isinstance(start, Branch) and continues_parent(recipe, name):
        return expected_mixture(recipe, start.parent)
    before, forgotten = consumed_before(recipe, name), forgotten_sources(recipe, name)
    weights = {
        key.removeprefix("replay/"): float(samples) for key, samples in before.items() if is_replayed(key)
    }
    weights |= {key: float(samples) for key, samples in before.items() if not is_replayed(key)}
    sources = {
        source: _packed_as_before(recipe, name, source, MixtureSource(weight=weight, order=replay.order))
        for source, weight in weights.items()
        if weight and source_of(source) not in forgotten
    }
    return mixture.model_copy(update={"replay": replay.model_copy(update={"sources": sources})})


def _packed_as_before(recipe: Recipe, name: str, domain: str, member: MixtureSource) -> MixtureSource:
    """A place in `replay.from_parents` with the packing of the stream that it replays: the one of which most was consumed, new
    data before what was replayed (`consumption.replay_pools`)."""
    if source_of(domain) not in recipe.sources:
        return member  # told by its own check
    streams = [
        (key == domain, samples, settings)
        for (key, settings), samples in _streams_consumed(recipe, name).items()
        if key.removeprefix("replay/") == domain and samples
    ]
    *_, (order, _, _, packing, overlong, _) = max(streams, key=lambda stream: stream[:2])
    how = packing_of(recipe, domain, MixtureSource(order=order, packing=packing, overlong=overlong))
    if how == packing_of(recipe, domain, member):
        return member
    told = {"packing": "stream"} if how is None else dict(zip(("packing", "overlong"), how))
    return member.model_copy(update=told)
