"""Shares that follow held-out perplexity while a version trains: measured on all ranks, decided once."""

import logging
import math
from collections.abc import Collection
from dataclasses import replace
from fractions import Fraction
from math import lcm
from pathlib import Path

import torch
import torch.distributed as dist

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.evaluate.record import sampled_domains
from perdure.pipeline.evaluate.sampling import RULE
from perdure.pipeline.plan.consumption import samples_consumed
from perdure.pipeline.plan.mixture import MAX_BLOCK, is_replayed, moving_groups, reweighted, rounded_shares
from perdure.pipeline.plan.plan import Plan, phase_entry, phase_of_sample, with_phases
from perdure.pipeline.recipe import Mixture, Recipe, Version
from perdure.pipeline.train.dataset import Dataset
from perdure.pipeline.train.evaluate import evaluate, summaries
from perdure.pipeline.train.state import TrainState

logger = logging.getLogger(__name__)

DIGITS = 10_000
"""Shares are rounded to one over this, so that a block of the mixture stays short."""


def reweight(
    dataset: Dataset,
    state: TrainState,
    recipe: Recipe,
    version: Version,
    model: torch.nn.Module,
    data: dict[str, Path],
    device: torch.device,
) -> tuple[Dataset, TrainState]:
    """Measures if it is time, and appends a phase with the new shares to the plan; all ranks call this before a step.

    Nothing but the weights, the plan and `state` decides, so a run that is resumed measures and decides alike. A source that
    was repeated `max_repetition` times by now is held at `floor` from here on, and that is logged once.

    Returns:
        The dataset, its plan extended, and the state, with `perplexity` (and by what rule its text was sampled,
        `perplexity_on`) and `ratios` by source and `phases` updated.
    """
    rule = version.mixture.reweight
    if rule is None:
        return dataset, state
    plan, batch = dataset.plan, recipe.training.global_batch_size
    first_sample = plan.first_sample + state.step * batch
    interval = -(-rule.interval // (batch * recipe.training.seq_length))
    if state.perplexity is not None and (first_sample // batch) % interval:
        return dataset, state
    tokens = rule.max_tokens or recipe.evaluation.max_tokens
    on = RULE if sampled_domains(data, version.mixture.sources, tokens) else None
    # A checkpoint of an earlier release may have that of another sample.
    before = state.perplexity if state.perplexity_on == on else None
    after = measured_perplexity(recipe, tokens, version, model, data, device)
    state = replace(state, perplexity=after, perplexity_on=on)
    if before is None:
        weights = {source: member.weight for source, member in version.mixture.sources.items()}
        ratios = {source: weight / sum(weights.values()) for source, weight in weights.items()}
        return dataset, replace(state, ratios=state.ratios or ratios)
    assert state.ratios is not None
    held = exhausted(plan, first_sample, version.mixture)
    ratios = moved(state.ratios, before, after, version.mixture, held)
    share_out = group_shares if rule.groups else _shares
    shares, plain = share_out(plan, ratios, version.mixture), phase_of_sample(plan, first_sample).plain
    entry = phase_entry(first_sample, shares, "reweight", plain)
    entry |= {"ratios": ratios, "perplexity": after, "perplexity_before": before}
    if held:
        entry["held"] = held
    told = {source for phase in state.phases for source in phase.get("held", ())}
    for source in held:
        if source not in told:
            logger.info(
                f"step {state.step + 1}: {source} was repeated {version.mixture.max_repetition:g} times "
                f"(mixture.max_repetition); its share is held at {rule.floor:.2%} of "
                f"{'its group' if rule.groups else 'the new data'}"
            )
    return replace(dataset, plan=with_phases(plan, [entry])), replace(
        state, ratios=ratios, phases=[*state.phases, entry]
    )


def moved(
    ratios: dict[str, float],
    before: dict[str, float],
    after: dict[str, float],
    mixture: Mixture,
    held: Collection[str] = (),
) -> dict[str, float]:
    """New shares of the new sources, see `mixture.reweighted`; those of a group (`reweight.groups`) keep their total."""
    rule = mixture.reweight
    assert rule is not None
    if not rule.groups:
        return reweighted(ratios, before, after, rule.alpha, rule.weights, rule.floor, held)
    whole = sum(member.weight for member in mixture.sources.values())
    found: dict[str, float] = {}
    for group in moving_groups(mixture):
        total = sum(mixture.sources[source].weight for source in group) / whole
        own = sum(ratios[source] for source in group)
        inside = {source: ratios[source] / own for source in group}
        low = [source for source in group if source in held]
        inside = reweighted(inside, before, after, rule.alpha, rule.weights, rule.floor, low)
        found |= {source: total * share for source, share in inside.items()}
    return {source: found[source] for source in ratios}


def exhausted(plan: Plan, first_sample: int, mixture: Mixture) -> list[str]:
    """New sources that were repeated `max_repetition` times before a global index, by ancestors too.

    None of a group once all of it were, since somebody has to give its samples.
    """
    found = [
        source
        for source in mixture.sources
        if samples_consumed((plan, first_sample), source)
        >= mixture.max_repetition * plan.sources[source]["samples_per_epoch"]
    ]
    whole = [group for group in moving_groups(mixture) if set(group) <= set(found)]
    return [source for source in found if not any(source in group for group in whole)]


def measured_perplexity(
    recipe: Recipe,
    tokens: int,
    version: Version,
    model: torch.nn.Module,
    data: dict[str, Path],
    device: torch.device,
) -> dict[str, float]:
    """Held-out perplexity per new domain over so many tokens at most, the same on every rank."""
    recipe = recipe.model_copy(
        update={"evaluation": recipe.evaluation.model_copy(update={"max_tokens": tokens})}
    )
    measured = evaluate(model, recipe, version.mixture.sources, data, device)
    assert measured is not None
    if missing := version.mixture.sources.keys() - measured.keys():
        raise PerdureError(
            f"mixture.reweight: no document of {', '.join(sorted(missing))} is held out, so that its perplexity cannot be "
            "followed; raise the source's heldout_fraction, or leave it out"
        )
    found = [{name: math.exp(result["loss"]) for name, result in summaries(measured).items()}]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(found, 0)
    return found[0]


def _shares(plan: Plan, ratios: dict[str, float], mixture: Mixture) -> dict[str, Fraction]:
    """Shares of all samples by key: replay keeps its own, the new sources divide the rest."""
    counts = plan.description["phases"][0]["counts"]
    replayed = {
        key: Fraction(count, sum(counts.values())) for key, count in counts.items() if is_replayed(key)
    }
    left = 1 - sum(replayed.values(), Fraction(0))
    fitting = MAX_BLOCK // lcm(left.denominator, *(share.denominator for share in replayed.values()))
    rounded = rounded_shares(ratios, min(DIGITS, fitting) if fitting >= DIGITS // 10 else DIGITS)
    return {key: left * share for key, share in rounded.items()} | replayed


def group_shares(plan: Plan, ratios: dict[str, float], mixture: Mixture) -> dict[str, Fraction]:
    """Shares of all samples by key, where groups of sources, and replay, keep exactly what they have in the plan's first phase.

    A block is as many of that phase's as make about `DIGITS` samples, or `MAX_BLOCK` if one is not shorter; a group's samples
    in it are divided among its sources.
    """
    counts = plan.description["phases"][0]["counts"]
    length = sum(counts.values())
    times = max(1, min(-(-DIGITS // length), MAX_BLOCK // length))
    shares: dict[str, Fraction] = {}
    for group in moving_groups(mixture):
        samples, own = (
            times * sum(counts[source] for source in group),
            sum(ratios[source] for source in group),
        )
        inside = rounded_shares({source: ratios[source] / own for source in group}, samples)
        shares |= {source: share * samples / (times * length) for source, share in inside.items()}
    new = {source: shares[source] for source in ratios}
    return new | {key: Fraction(count, length) for key, count in counts.items() if is_replayed(key)}
