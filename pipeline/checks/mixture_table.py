"""What a version's mixture takes from each source, and between which sources shares may move, as data."""

import os
from pathlib import Path
from typing import Any

from perdure.pipeline.checks.packed import packed
from perdure.pipeline.checks.sizes import (
    available_tokens,
    chosen_part,
    domain_tokens,
    estimated_tokens,
    finished_sources,
    lowest_tokens,
)
from perdure.pipeline.checks.withdrawn import left_out
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.plan.domains import parse, source_of
from perdure.pipeline.plan.forecast import expected_mixture, planned_samples, streams_before
from perdure.pipeline.plan.mixture import is_replayed, members, moving_groups
from perdure.pipeline.plan.withdrawn import is_forgotten
from perdure.pipeline.recipe import LowestPerplexity, Mixture, Recipe, Source


def mixture_table(recipe: Recipe, name: str, sources: dict[str, dict], counts: dict[str, dict]) -> list[dict]:
    """Every place in a version's mixture, with what it takes over the whole version.

    Args:
        recipe: The whole recipe.
        name: The version.
        sources: By source, `tokens` to train on, None if unknown.
        counts: Of the data manifest, by source, where there is one.
    """
    planned, before = planned_samples(recipe, name), streams_before(recipe, name)
    seq_length, mixture = recipe.training.seq_length, recipe.versions[name].mixture
    found, total = [], sum(planned.values())
    for key, (domain, settings) in members(expected_mixture(recipe, name)).items():
        tokens = planned[key] * seq_length
        lowest, source = settings.lowest_perplexity, source_of(domain)
        if source in counts:
            available = available_tokens(counts[source], domain, lowest)
        else:
            available = sources[source]["tokens"] if domain == source else None
            available = lowest_tokens(available, lowest) if available and lowest else available
        subset = _subset(recipe, domain, mixture.perplexity_model, lowest)
        if subset and subset["chosen"]:
            available = subset["chosen"]["taken"]["tokens"]
        told = packed(recipe, domain, settings)
        if told and told["packing"] and available:  # padding counts in what is taken
            whole = told["samples"] * seq_length
            available = (
                whole if lowest is None else round(whole * available / domain_tokens(counts[source], domain))
            )
        pool = is_replayed(key) and bool(mixture.replay and mixture.replay.from_parents)
        found.append(
            {
                "part": "replay" if is_replayed(key) else "new",
                "source": domain,
                "order": settings.order,
                "buckets": settings.buckets,
                "lowest_perplexity": subset,
                "packed": told,
                "withdrawn": None
                if is_forgotten(recipe.versions[name], key)
                else left_out(recipe, name, source),
                "share": float(planned[key] / total),
                "tokens": round(tokens),
                "available": available,
                "repetitions": float(tokens) / available if available else None,
                "repetitions_of_ancestors": float(before.get(key, 0) * seq_length) / available
                if available and not pool
                else None,
            }
        )
    return found


def _subset(
    recipe: Recipe, domain: str, model: str | None, lowest: LowestPerplexity | None
) -> dict[str, Any] | None:
    """The budget of a subset by perplexity and, once a version was planned, what was chosen."""
    if lowest is None or model is None:
        return None
    label = Path(os.path.realpath(model)).name if "/" in model else model
    return lowest.model_dump() | {"chosen": chosen_part(recipe, domain, lowest, label)}


def mixtures(recipe: Recipe, counts: dict[str, dict] | None = None) -> list[dict]:
    """`mixture_table` of every version, with the model by which documents are chosen.

    Args:
        recipe: The whole recipe.
        counts: Of the data manifest, by source; default: of what is finished.
    """
    counts = finished_sources(recipe) if counts is None else counts
    sources = {
        name: {"tokens": counts[name]["train"]["tokens"] if name in counts else _estimate(recipe, source)}
        for name, source in recipe.sources.items()
    }
    return [
        {
            "version": name,
            "perplexity_model": version.mixture.perplexity_model,
            "max_repetition": version.mixture.max_repetition,
            "rows": mixture_table(recipe, name, sources, counts),
        }
        for name, version in recipe.versions.items()
    ]


def _estimate(recipe: Recipe, source: Source) -> int | None:
    try:
        return estimated_tokens(recipe, source)
    except PerdureError:
        return None  # the raw text is gone


def is_part(member: dict) -> bool:
    """Whether a row of a version's `mixture` takes some documents of its source only."""
    return member["source"] != source_of(member["source"]) or member["lowest_perplexity"] is not None


def moves_across(mixture: Mixture) -> list[str]:
    """Sources and languages between which `reweight` moves shares because no `groups` fix their totals; empty if it moves
    none."""
    if mixture.reweight is None or mixture.reweight.groups:
        return []
    domains = [parse(name) for name in mixture.sources]
    languages = {domain.language for domain in domains if domain.language is not None}
    kinds = ({domain.source for domain in domains}, languages)
    return [name for kind in kinds if len(kind) > 1 for name in sorted(kind)]


def moving_sources(mixture: Mixture) -> dict[str, list[str]]:
    """Sources among which shares move while their total is fixed, by the group's name; empty if all move together."""
    if mixture.reweight is None or not mixture.reweight.groups:
        return {}
    return dict(zip((*mixture.reweight.groups, "others"), moving_groups(mixture)))
