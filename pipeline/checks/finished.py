"""Checks of what versions train on against sources that are already tokenised."""

from collections.abc import Iterator

from perdure.pipeline.checks.mixtures import named_places
from perdure.pipeline.checks.packed import packed
from perdure.pipeline.checks.pools import pool_repetition
from perdure.pipeline.checks.sizes import available_tokens, domain_tokens, finished_sources
from perdure.pipeline.checks.withdrawn import exact_texts, known
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.plan.domains import PLURALS, parse, source_of
from perdure.pipeline.plan.forecast import expected_mixture, is_foreseen, planned_samples, streams_before
from perdure.pipeline.plan.mixture import is_replayed, members
from perdure.pipeline.recipe import FisherAnchor, FisherExamples, Recipe, Version
from perdure.pipeline.recipe.remembered import remembering

Problems = Iterator[Problem]


def against_data(recipe: Recipe) -> list[Problem]:
    """What sources that are already tokenised say: labels and withdrawn ids that no document has, subsets larger than they
    are, and sources that would repeat too often, what ancestors took included.

    The versions have no other problem.
    """
    all_found: list[Problem] = []
    with remembering():
        finished = finished_sources(recipe)
        for name, version in recipe.versions.items():
            if version.is_computed:
                continue  # it reads nothing
            found = [
                *data_labels(finished, name, version),
                *data_budgets(finished, name, version),
                *fisher_samples(finished, recipe, name, version),
                *known(recipe, name, version),
            ]
            all_found += found or repetition(finished, recipe, name, version)
        all_found += exact_texts(recipe)
    return all_found


def data_labels(finished: dict[str, dict], name: str, version: Version) -> Problems:
    """Checks labels against the counts of finished sources, and that reweighted domains have held-out documents."""
    for where, domain, _member in named_places(version, f"versions.{name}.mixture"):
        if (counts := finished.get(source_of(domain))) is None:
            continue
        for kind, label in parse(domain).labels.items():
            known = counts.get(PLURALS[kind], {})
            if label not in known:
                there = near(label, known) if known else ": none of its documents has one"
                yield Problem(where, domain, f"no such {kind} in `{source_of(domain)}`{there}")
        if parse(domain).has_dates and domain_tokens(counts, domain) == 0:
            dates = counts.get("dates", {})
            there = f"they are {dates.get('first')} to {dates.get('last')}"
            remedy = f"no document of `{source_of(domain)}` has such a date; {there}"
            yield Problem(where, domain, remedy)
    if version.mixture.reweight:
        for domain in version.mixture.sources:
            counts = finished.get(source_of(domain))
            if counts and domain_tokens(counts, domain) and domain_tokens(counts, domain, "heldout") == 0:
                remedy = "none of its documents is held out, so that its perplexity cannot be followed"
                yield Problem(f"versions.{name}.mixture.reweight", domain, remedy)


def data_budgets(finished: dict[str, dict], name: str, version: Version) -> Problems:
    """Checks that subsets by perplexity are no larger than what they are chosen from."""
    for where, domain, member in named_places(version, f"versions.{name}.mixture"):
        counts, lowest = finished.get(source_of(domain)), member.lowest_perplexity
        available = domain_tokens(counts, domain) if counts else None
        if lowest and lowest.tokens and available and lowest.tokens > available:
            yield Problem(
                f"{where}.lowest_perplexity.tokens",
                lowest.tokens,
                f"`{domain}` has only {available:,} training tokens; lower it, or leave the subset out and let the "
                "mixture repeat it",
            )


def fisher_samples(finished: dict[str, dict], recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that a source has as many samples as an anchor's Fisher information is estimated from."""
    anchor = version.anchor
    if not isinstance(anchor, FisherAnchor) or not isinstance(anchor.estimate, FisherExamples):
        return
    if (counts := finished.get(anchor.estimate.source)) is None:
        return
    samples = -(-counts["train"]["tokens"] // recipe.training.seq_length)
    if anchor.estimate.examples > samples:
        length = recipe.training.seq_length
        remedy = f"`{anchor.estimate.source}` has only {samples:,} samples of {length:,} tokens; should be at most that"
        yield Problem(f"versions.{name}.anchor.estimate.examples", anchor.estimate.examples, remedy)


def repetition(finished: dict[str, dict], recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that a version and its ancestors repeat no source more often than `max_repetition`."""
    if not is_foreseen(recipe, name):
        return  # planning counts it
    yield from pool_repetition(finished, recipe, name, version)
    before, seq_length = streams_before(recipe, name), recipe.training.seq_length
    from_parents = version.mixture.replay is not None and version.mixture.replay.from_parents
    places = members(expected_mixture(recipe, name))
    for key, samples in planned_samples(recipe, name).items():
        domain, member = places[key]
        if (counts := finished.get(source_of(domain))) is None or (from_parents and is_replayed(key)):
            continue
        if (available := available_tokens(counts, domain, member.lowest_perplexity)) is None:
            continue  # planning counts it
        per_epoch: float = -(-available // seq_length)
        if (told := packed(recipe, domain, member)) and told["packing"]:
            whole = domain_tokens(counts, domain)
            per_epoch = told["samples"] * (available / whole if member.lowest_perplexity and whole else 1)
        epochs = float(samples + before.get(key, 0)) / max(1, per_epoch)
        if samples and epochs > version.mixture.max_repetition:
            yield Problem(
                f"versions.{name}.mixture.max_repetition",
                version.mixture.max_repetition,
                f"`{key}` would repeat {epochs:.1f} times ({float(samples) * seq_length:,.0f} tokens of "
                f"{available:,}{' after its ancestors' if before.get(key) else ''}); lower its weight or the "
                "version's tokens, or raise this",
            )
