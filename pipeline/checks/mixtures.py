"""Checks of what a version trains on."""

from collections.abc import Iterator
from itertools import pairwise

from perdure.pipeline.checks.hints import near
from perdure.pipeline.checks.pools import pool_repetition
from perdure.pipeline.checks.reweighting import reweighting
from perdure.pipeline.checks.versions import earlier, model_or_version
from perdure.pipeline.domains import PLURALS, overlap, parse, source_of
from perdure.pipeline.errors import Problem
from perdure.pipeline.lineage import (
    continues_parent,
    expected_mixture,
    is_foreseen,
    parent_of,
    planned_samples,
    stream_settings,
    streams_before,
    switch_steps,
)
from perdure.pipeline.mixture import is_replayed, members, new_sources
from perdure.pipeline.order import RANKED
from perdure.pipeline.plan import num_steps
from perdure.pipeline.recipe import DecaySchedule, MixtureSource, Recipe, Version
from perdure.pipeline.sizes import available_tokens, domain_tokens, finished_sources, possible_topics

Problems = Iterator[Problem]
MOST_RATES = 1_000_000
"""Steps whose learning rates are looked through for the one at which a switch comes."""


def known_sources(recipe: Recipe, name: str, version: Version) -> Problems:
    """Names of sources that the recipe has, wherever a version names some."""
    mixture, where = version.mixture, f"versions.{name}.mixture"
    yield from _known(recipe, f"{where}.sources", mixture.sources)
    for number, switch in enumerate(mixture.switches):
        yield from _known(recipe, f"{where}.switches.{number}.sources", switch.sources)
    if mixture.replay is not None:
        yield from _known(recipe, f"{where}.replay.sources", mixture.replay.sources)


def new_names(recipe: Recipe, name: str, version: Version) -> Problems:
    """Names of new sources."""
    yield from _names(recipe, f"versions.{name}.mixture.sources", version.mixture.sources)
    earlier = list(version.mixture.sources)
    for number, switch in enumerate(version.mixture.switches):
        where = f"versions.{name}.mixture.switches.{number}.sources"
        yield from _names(recipe, where, switch.sources)
        for domain in switch.sources:
            for other in earlier:
                if domain != other and overlap(domain, other):
                    remedy = f"overlaps `{other}` of earlier steps: its documents would come twice; name the same parts"
                    yield Problem(f"{where}.{domain}", domain, remedy)
        earlier += switch.sources


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
    yield from _nothing_old(recipe, name, version)
    if old.order == "given" and not old.from_parents:
        yield Problem(
            f"{where}.order", "given", "has no use without `from_parents`; each of `sources` has its own"
        )


def _nothing_old(recipe: Recipe, name: str, version: Version) -> Problems:
    """Replay of what is new: no ancestor trained on it, and the version itself reads it as new data."""
    if (old := version.mixture.replay) is None:
        return
    lineage: list[Version] = []
    while (above := parent_of(lineage[-1] if lineage else version)) is not None:
        lineage.append(recipe.versions[above])
    before = {domain for ancestor in lineage for domain in _new_domains(ancestor)}
    own = _new_domains(version)
    for domain in old.sources:
        fresh = [other for other in own if overlap(domain, other)]
        if fresh and not any(overlap(domain, other) for other in before):
            remedy = f"is the new data itself (`{fresh[0]}`), which no version before trained on; name old data, or leave it out"
            yield Problem(f"versions.{name}.mixture.replay.sources.{domain}", domain, remedy)


def _new_domains(version: Version) -> list[str]:
    """Domains that a version reads as new data, at any time."""
    later = [domain for switch in version.mixture.switches for domain in switch.sources]
    return [*version.mixture.sources, *later]


def _known(recipe: Recipe, where: str, named: dict) -> Problems:
    for name in named:
        source = source_of(name)
        if source not in recipe.sources:
            yield Problem(f"{where}.{name}", name, f"no such source{near(source, recipe.sources)}")


def _names(recipe: Recipe, where: str, named: dict) -> Problems:
    yield from _known(recipe, where, named)
    for number, name in enumerate(named):
        if source_of(name) not in recipe.sources:
            continue
        yield from _labels(recipe, f"{where}.{name}", name)
        for other in list(named)[:number]:
            if overlap(name, other):
                yield Problem(
                    f"{where}.{name}",
                    name,
                    f"overlaps `{other}`: a document would come from both; leave one out",
                )


def _labels(recipe: Recipe, where: str, name: str) -> Problems:
    """A part of a source: labels that its documents can have, as far as that is known before the data stage."""
    domain = parse(name)
    source = recipe.sources[domain.source]
    if domain.labels and domain.source == "replay":
        yield Problem(where, name, "a source named `replay` cannot be mixed by label; rename it")
    if domain.topic is not None and source.topics is None:
        yield Problem(where, name, f"`{domain.source}` has no topics; set sources.{domain.source}.topics")
        return
    known = possible_topics(source)
    if domain.topic is not None and known is not None and domain.topic not in known:
        yield Problem(where, name, f"no such topic in `{domain.source}`{near(domain.topic, known)}")


def subsets(recipe: Recipe, name: str, version: Version) -> Problems:
    """Documents of lowest perplexity: exactly one budget."""
    for where, _domain, member in _places(version, f"versions.{name}.mixture"):
        lowest, where = member.lowest_perplexity, f"{where}.lowest_perplexity"
        if lowest is None:
            continue
        if (lowest.tokens is None) == (lowest.share is None):
            yield Problem(where, lowest.model_dump(), "should have exactly one of `tokens` and `share`")


def _places(version: Version, where: str) -> Iterator[tuple[str, str, MixtureSource]]:
    """Every place that a mixture names: its path, domain and settings."""
    named = [("sources", version.mixture.sources)]
    named += [(f"switches.{n}.sources", switch.sources) for n, switch in enumerate(version.mixture.switches)]
    if version.mixture.replay is not None:
        named.append(("replay.sources", version.mixture.replay.sources))
    for part, sources in named:
        for domain, member in sources.items():
            yield f"{where}.{part}.{domain}", domain, member


def curriculum(recipe: Recipe, name: str, version: Version) -> Problems:
    """A model for orders and subsets by perplexity, and a use for the model."""
    mixture, where = version.mixture, f"versions.{name}.mixture.perplexity_model"
    places = [member for _, member in members(mixture).values()]
    ordered = any(member.order in RANKED for member in places)
    chosen = any(member.lowest_perplexity for member in places)
    if mixture.perplexity_model is None:
        if ordered or chosen:
            what = "an order by perplexity" if ordered else "lowest_perplexity"
            yield Problem(where, None, f"required by {what}: an earlier version, or a model directory")
    else:
        yield from model_or_version(recipe, name, where, mixture.perplexity_model)
        if not (ordered or chosen):
            yield Problem(
                where, mixture.perplexity_model, "has no use: no source is ordered or chosen by perplexity"
            )


def buckets(recipe: Recipe, name: str, version: Version) -> Problems:
    """Buckets of an order that has any."""
    for where, _domain, member in _places(version, f"versions.{name}.mixture"):
        if member.buckets is not None and member.order not in RANKED:
            remedy = f"has no use with `order: {member.order}`; needs one by perplexity"
            yield Problem(f"{where}.buckets", member.buckets, remedy)


def switches(recipe: Recipe, name: str, version: Version) -> Problems:
    """Planned changes: when they come, and sources that keep their order."""
    mixture, where = version.mixture, f"versions.{name}.mixture.switches"
    orders = {source: stream_settings(mixture, member) for source, member in mixture.sources.items()}
    whole = True
    for number, switch in enumerate(mixture.switches):
        times = {key: getattr(switch, key) for key in ("at", "at_tokens", "at_lr")}
        if sum(time is not None for time in times.values()) != 1:
            yield Problem(f"{where}.{number}", times, "should have exactly one of `at`, `at_tokens`, `at_lr`")
            whole = False
        for source, member in new_sources(mixture, number + 1).items():
            own = stream_settings(mixture, member)
            if orders.setdefault(source, own) != own:
                remedy = (
                    "a source keeps its order (buckets and subset too) within a version; it began as "
                    f"{orders[source][0]}"
                )
                yield Problem(f"{where}.{number}.sources.{source}.order", member.order, remedy)
    rate_known = not isinstance(version.schedule, DecaySchedule) or parent_of(version) in (
        None,
        *earlier(recipe, name),
    )
    if not (whole and rate_known and mixture.switches) or _reads_on(recipe, name):
        return
    total = num_steps(recipe, version)
    if total > MOST_RATES and any(switch.at_lr is not None for switch in mixture.switches):
        yield Problem(
            where, None, f"`at_lr` is for versions of up to {MOST_RATES:,} steps; use `at` or `at_tokens`"
        )
        return
    steps = switch_steps(recipe, name)
    for number, (before, step) in enumerate(pairwise([0, *steps])):
        if step >= total:
            late = "the learning rate never falls so far" if mixture.switches[number].at_lr else "too late"
            yield Problem(f"{where}.{number}", step, f"{late}; the version ends at step {total}")
        elif step <= before:
            yield Problem(
                f"{where}.{number}", step, f"should come after step {before}, the start or last switch"
            )


def _reads_on(recipe: Recipe, name: str) -> bool:
    """Whether the phases of a version are its parent's, whatever its own steps are."""
    return parent_of(recipe.versions[name]) in earlier(recipe, name) and continues_parent(recipe, name)


def domains(recipe: Recipe, name: str, version: Version) -> Problems:
    """Domains one after another: several, with a step each, and nothing else that sets shares."""
    mixture, where = version.mixture, f"versions.{name}.mixture.domain_order"
    if mixture.domain_order is None:
        return
    if len(mixture.sources) < 2:
        yield Problem(where, mixture.domain_order, "has no use: there is one new source")
    for other in ("switches", "reweight"):
        if getattr(mixture, other):
            yield Problem(where, mixture.domain_order, f"cannot stand beside `{other}`: both set the shares")
    if (steps := num_steps(recipe, version)) < len(mixture.sources) and not _reads_on(recipe, name):
        remedy = f"the version's {steps} steps are fewer than its {len(mixture.sources)} domains"
        yield Problem(where, mixture.domain_order, remedy)


def against_data(recipe: Recipe) -> Problems:
    """What sources that are already tokenised say: labels that no document has, subsets larger than they are, and
    sources that would repeat too often, what ancestors took included.

    The versions have no other problem.
    """
    finished = finished_sources(recipe)
    for name, version in recipe.versions.items():
        found = [*data_labels(finished, name, version), *data_budgets(finished, name, version)]
        yield from found or _repetition(finished, recipe, name, version)


def data_labels(finished: dict[str, dict], name: str, version: Version) -> Problems:
    """Labels that no document has, by the counts of finished sources; perplexities that cannot be followed."""
    for where, domain, _member in _places(version, f"versions.{name}.mixture"):
        if (counts := finished.get(source_of(domain))) is None:
            continue
        for kind, label in parse(domain).labels.items():
            known = counts.get(PLURALS[kind], {})
            if label not in known:
                there = near(label, known) if known else ": none of its documents has one"
                yield Problem(where, domain, f"no such {kind} in `{source_of(domain)}`{there}")
    if version.mixture.reweight:
        for domain in version.mixture.sources:
            counts = finished.get(source_of(domain))
            if counts and domain_tokens(counts, domain) and domain_tokens(counts, domain, "heldout") == 0:
                remedy = "none of its documents is held out, so that its perplexity cannot be followed"
                yield Problem(f"versions.{name}.mixture.reweight", domain, remedy)


def data_budgets(finished: dict[str, dict], name: str, version: Version) -> Problems:
    """Subsets by perplexity that are larger than what they are chosen from."""
    for where, domain, member in _places(version, f"versions.{name}.mixture"):
        counts, lowest = finished.get(source_of(domain)), member.lowest_perplexity
        available = domain_tokens(counts, domain) if counts else None
        if lowest and lowest.tokens and available and lowest.tokens > available:
            yield Problem(
                f"{where}.lowest_perplexity.tokens",
                lowest.tokens,
                f"`{domain}` has only {available:,} training tokens; lower it, or leave the subset out and let the "
                "mixture repeat it",
            )


def _repetition(finished: dict[str, dict], recipe: Recipe, name: str, version: Version) -> Problems:
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
        epochs = float(samples + before.get(key, 0)) / max(1, -(-available // seq_length))
        if samples and epochs > version.mixture.max_repetition:
            yield Problem(
                f"versions.{name}.mixture.max_repetition",
                version.mixture.max_repetition,
                f"`{key}` would repeat {epochs:.1f} times ({float(samples) * seq_length:,.0f} tokens of "
                f"{available:,}{' after its ancestors' if before.get(key) else ''}); lower its weight or the "
                "version's tokens, or raise this",
            )


CHECKS = (new_names, replay, curriculum, buckets, subsets, switches, domains, reweighting)
