"""Checks of what a version trains on."""

from collections.abc import Iterator
from itertools import pairwise

from perdure.pipeline.checks.hints import near
from perdure.pipeline.checks.versions import earlier, model_or_version
from perdure.pipeline.errors import Problem
from perdure.pipeline.lineage import consumed_before, parent_of, planned_samples, switch_steps
from perdure.pipeline.mixture import members, new_sources
from perdure.pipeline.order import RANKED
from perdure.pipeline.plan import num_steps
from perdure.pipeline.recipe import DecaySchedule, Recipe, Version
from perdure.pipeline.sizes import finished_sources

Problems = Iterator[Problem]


def new_names(recipe: Recipe, name: str, version: Version) -> Problems:
    """Names of new sources."""
    yield from _names(recipe, f"versions.{name}.mixture.sources", version.mixture.sources)
    for number, switch in enumerate(version.mixture.switches):
        yield from _names(recipe, f"versions.{name}.mixture.switches.{number}.sources", switch.sources)


def replay(recipe: Recipe, name: str, version: Version) -> Problems:
    """Replayed sources: named, or taken from ancestors."""
    old, where = version.mixture.replay, f"versions.{name}.mixture.replay"
    if old is None:
        return
    yield from _names(recipe, f"{where}.sources", old.sources)
    if old.from_parents and old.sources:
        yield Problem(f"{where}.from_parents", True, "cannot stand beside `sources`; leave one of them out")
    elif old.from_parents and parent_of(version) is None:
        yield Problem(f"{where}.from_parents", True, "an `init` version has no parents; name `sources`")
    elif not old.from_parents and not old.sources:
        yield Problem(f"{where}.sources", None, "required, or `from_parents: true`")
    if old.order == "given" and not old.from_parents:
        yield Problem(
            f"{where}.order", "given", "has no use without `from_parents`; each of `sources` has its own"
        )


def _names(recipe: Recipe, where: str, named: dict) -> Problems:
    for source in named:
        if source not in recipe.sources:
            yield Problem(f"{where}.{source}", source, f"no such source{near(source, recipe.sources)}")


def curriculum(recipe: Recipe, name: str, version: Version) -> Problems:
    """A model for the order by perplexity, and an order for the model."""
    mixture, where = version.mixture, f"versions.{name}.mixture.perplexity_model"
    ordered = any(member.order in RANKED for _, member in members(mixture).values())
    if mixture.perplexity_model is None:
        if ordered:
            yield Problem(
                where, None, "required by an order by perplexity: an earlier version, or a model directory"
            )
    else:
        yield from model_or_version(recipe, name, where, mixture.perplexity_model)
        if not ordered:
            yield Problem(where, mixture.perplexity_model, "has no use: no source is ordered by perplexity")


def buckets(recipe: Recipe, name: str, version: Version) -> Problems:
    """Buckets of an order that has any."""
    parts = {
        "sources": version.mixture.sources,
        "replay.sources": getattr(version.mixture.replay, "sources", {}),
    }
    for part, named in parts.items():
        for source, member in named.items():
            if member.buckets is not None and member.order not in RANKED:
                where = f"versions.{name}.mixture.{part}.{source}.buckets"
                yield Problem(
                    where, member.buckets, f"has no use with `order: {member.order}`; needs one by perplexity"
                )


def switches(recipe: Recipe, name: str, version: Version) -> Problems:
    """Planned changes: when they come, and sources that keep their order."""
    mixture, where = version.mixture, f"versions.{name}.mixture.switches"
    orders = {source: (member.order, member.buckets) for source, member in mixture.sources.items()}
    whole = True
    for number, switch in enumerate(mixture.switches):
        times = {key: getattr(switch, key) for key in ("at", "at_tokens", "at_lr")}
        if sum(time is not None for time in times.values()) != 1:
            yield Problem(f"{where}.{number}", times, "should have exactly one of `at`, `at_tokens`, `at_lr`")
            whole = False
        for source, member in new_sources(mixture, number + 1).items():
            if orders.setdefault(source, (member.order, member.buckets)) != (member.order, member.buckets):
                remedy = f"a source keeps its order (and buckets) within a version; it began as {orders[source][0]}"
                yield Problem(f"{where}.{number}.sources.{source}.order", member.order, remedy)
    rate_known = not isinstance(version.schedule, DecaySchedule) or parent_of(version) in (
        None,
        *earlier(recipe, name),
    )
    if not (whole and rate_known and mixture.switches):
        return
    steps, total = switch_steps(recipe, name), num_steps(recipe, version)
    for number, (before, step) in enumerate(pairwise([0, *steps])):
        if step >= total:
            late = "the learning rate never falls so far" if mixture.switches[number].at_lr else "too late"
            yield Problem(f"{where}.{number}", step, f"{late}; the version ends at step {total}")
        elif step <= before:
            yield Problem(
                f"{where}.{number}", step, f"should come after step {before}, the start or last switch"
            )


def reweighting(recipe: Recipe, name: str, version: Version) -> Problems:
    """Shares that follow perplexity: a rule that keeps every share positive."""
    rule, where = version.mixture.reweight, f"versions.{name}.mixture.reweight"
    if rule is None:
        return
    sources = version.mixture.sources
    if version.mixture.switches:
        yield Problem(where, None, "cannot stand beside `switches`: both set the shares")
    if len(sources) < 2:
        yield Problem(where, None, "has no use: there is one new source")
    for source in rule.weights:
        if source not in sources:
            yield Problem(f"{where}.weights.{source}", source, f"no such new source{near(source, sources)}")
    largest = max(rule.weights.get(source, 1.0) for source in sources)
    if rule.alpha * largest >= 1:
        remedy = f"alpha times the largest weight ({largest:g}) should be below 1, to keep shares positive"
        yield Problem(f"{where}.alpha", rule.alpha, remedy)
    if rule.floor * len(sources) >= 1:
        yield Problem(
            f"{where}.floor", rule.floor, f"should be below 1/{len(sources)}, for {len(sources)} sources"
        )


def repetition(recipe: Recipe) -> Problems:
    """Sources that are already tokenised, and would repeat too often, what ancestors took included.

    The versions have no other problem.
    """
    finished, seq_length = finished_sources(recipe), recipe.training.seq_length
    for name, version in recipe.versions.items():
        before = consumed_before(recipe, name)
        for key, samples in planned_samples(recipe, name).items():
            if (counts := finished.get(key.removeprefix("replay/"))) is None or _is_pool(version, key):
                continue
            available = counts["train"]["tokens"]
            epochs = float(samples + before.get(key, 0)) / max(1, -(-available // seq_length))
            if samples and epochs > version.mixture.max_repetition:
                yield Problem(
                    f"versions.{name}.mixture.max_repetition",
                    version.mixture.max_repetition,
                    f"`{key}` would repeat {epochs:.1f} times ({float(samples) * seq_length:,.0f} tokens of "
                    f"{available:,}{' after its ancestors' if before.get(key) else ''}); lower its weight or the "
                    "version's tokens, or raise this",
                )


def _is_pool(version: Version, key: str) -> bool:
    return (
        key.startswith("replay/")
        and version.mixture.replay is not None
        and version.mixture.replay.from_parents
    )


CHECKS = (new_names, replay, curriculum, buckets, switches, reweighting)
