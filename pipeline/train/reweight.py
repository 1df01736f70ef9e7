"""Shares that follow held-out perplexity while a version trains: measured on all ranks, decided once."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import lcm
from pathlib import Path

import torch
import torch.distributed as dist

from perdure.pipeline.consumption import taken
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.mixture import MAX_BLOCK, is_replayed, reweighted, rounded_shares
from perdure.pipeline.plan import Plan, phase_entry, with_phases
from perdure.pipeline.recipe import Mixture, Recipe, Version
from perdure.pipeline.train.dataset import Dataset
from perdure.pipeline.train.evaluate import evaluate, summaries

DIGITS = 10_000
"""Shares are rounded to one over this, so that a block of the mixture stays short."""


def reweight(
    dataset: Dataset,
    state: dict,
    recipe: Recipe,
    version: Version,
    model: torch.nn.Module,
    data: dict[str, Path],
    device: torch.device,
    say: Callable[[str], None],
) -> tuple[Dataset, dict]:
    """Measures if it is time, and appends a phase with the new shares to the plan; all ranks call this before a step.

    Nothing but the weights, the plan and `state` decides, so a run that is resumed measures and decides alike. A source that
    was repeated `max_repetition` times by now is held at `floor` from here on, and `say` is told once.

    Returns:
        The dataset, its plan extended, and the state, with `perplexity` and `ratios` by source and `phases` updated.
    """
    rule = version.mixture.reweight
    if rule is None:
        return dataset, state
    plan, batch = dataset.plan, recipe.training.global_batch_size
    first_sample = plan.first_sample + state["step"] * batch
    interval = -(-rule.interval // (batch * recipe.training.seq_length))
    before = state["perplexity"]
    if before is not None and (first_sample // batch) % interval:
        return dataset, state
    after = _perplexity(recipe, version, model, data, device)
    if before is None:
        weights = {source: member.weight for source, member in version.mixture.sources.items()}
        ratios = {source: weight / sum(weights.values()) for source, weight in weights.items()}
        return dataset, state | {"perplexity": after, "ratios": ratios}
    held = exhausted(plan, first_sample, version.mixture)
    ratios = reweighted(state["ratios"], before, after, rule.alpha, rule.weights, rule.floor, held)
    entry = phase_entry(first_sample, _shares(dataset, ratios), "reweight")
    entry |= {"ratios": ratios, "perplexity": after, "perplexity_before": before}
    if held:
        entry["held"] = held
    told = {source for phase in state["phases"] for source in phase.get("held", ())}
    for source in held:
        if source not in told:
            say(
                f"step {state['step'] + 1}: {source} was repeated {version.mixture.max_repetition:g} times "
                f"(mixture.max_repetition); its share is held at {rule.floor:.2%} of the new data"
            )
    return replace(dataset, plan=with_phases(plan, [entry])), state | {
        "perplexity": after,
        "ratios": ratios,
        "phases": [*state["phases"], entry],
    }


def exhausted(plan: Plan, first_sample: int, mixture: Mixture) -> list[str]:
    """New sources that were repeated `max_repetition` times before a global index, by ancestors too.

    None once all were, since somebody has to give the samples.
    """
    found = [
        source
        for source in mixture.sources
        if taken((plan, first_sample), source)
        >= mixture.max_repetition * plan.sources[source]["samples_per_epoch"]
    ]
    return found if len(found) < len(mixture.sources) else []


def _perplexity(
    recipe: Recipe, version: Version, model: torch.nn.Module, data: dict[str, Path], device: torch.device
) -> dict[str, float]:
    """Held-out perplexity per new domain, the same on every rank."""
    assert version.mixture.reweight is not None
    if tokens := version.mixture.reweight.max_tokens:
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


def _shares(dataset: Dataset, ratios: dict[str, float]) -> dict[str, Fraction]:
    """Shares of all samples by key: replay keeps its own, the new sources divide the rest."""
    counts = dataset.plan.description["phases"][0]["counts"]
    replayed = {
        key: Fraction(count, sum(counts.values())) for key, count in counts.items() if is_replayed(key)
    }
    left = 1 - sum(replayed.values(), Fraction(0))
    fitting = MAX_BLOCK // lcm(left.denominator, *(share.denominator for share in replayed.values()))
    rounded = rounded_shares(ratios, min(DIGITS, fitting) if fitting >= DIGITS // 10 else DIGITS)
    return {key: left * share for key, share in rounded.items()} | replayed
