"""Checks of what a version trains on."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise, takewhile
from operator import ne

from perdure.pipeline.checks.amounts import MOST_RATES, new_domains, too_long
from perdure.pipeline.checks.dates import RANGE, domain_dates
from perdure.pipeline.checks.reweighting import reweighting
from perdure.pipeline.checks.sizes import possible_topics
from perdure.pipeline.checks.versions import earlier, model_or_version
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.plan.domains import PREFIXED, overlapping, parse, source_of
from perdure.pipeline.plan.forecast import stream_settings
from perdure.pipeline.plan.lineage import continues_parent, parent_of, switch_steps
from perdure.pipeline.plan.mixture import members, new_sources
from perdure.pipeline.plan.order import RANKED
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import DecaySchedule, MixtureSource, Recipe, Version
from perdure.pipeline.recipe.remembered import remembered

Problems = Iterator[Problem]


def known_sources(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that every source that a version names is in the recipe."""
    mixture, where = version.mixture, f"versions.{name}.mixture"
    yield from _known(recipe, f"{where}.sources", mixture.sources)
    for number, switch in enumerate(mixture.switches):
        yield from _known(recipe, f"{where}.switches.{number}.sources", switch.sources)
    if mixture.replay is not None:
        yield from _known(recipe, f"{where}.replay.sources", mixture.replay.sources)


def new_names(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks names of new sources: known, with labels that exist, without overlap."""
    yield from _names(recipe, f"versions.{name}.mixture.sources", version.mixture.sources)
    since = dict.fromkeys(version.mixture.sources, -1)
    for number, switch in enumerate(version.mixture.switches):
        for domain in switch.sources:
            since.setdefault(domain, number)
    beside = overlapping(since)
    for number, switch in enumerate(version.mixture.switches):
        where = f"versions.{name}.mixture.switches.{number}.sources"
        yield from _names(recipe, where, switch.sources)
        for domain in switch.sources:
            for other in beside(domain):
                if since[other] >= number:
                    break
                if domain != other:
                    remedy = f"overlaps `{other}` of earlier steps: its documents would come twice; name the same parts"
                    yield Problem(f"{where}.{domain}", domain, remedy)


def replay(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that replay names its sources or takes them from ancestors, and not both."""
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
    """Checks that replayed data are not new: something before trained on them."""
    if (old := version.mixture.replay) is None:
        return
    own = overlapping(dict.fromkeys(new_domains(version)))
    for domain in old.sources:
        if (fresh := next(own(domain), None)) is None or domain in (before := _new_before(recipe, name)):
            continue
        if next(overlapping(before)(domain), None) is None:
            remedy = f"is the new data itself (`{fresh}`), which no version before trained on; name old data, or leave it out"
            yield Problem(f"versions.{name}.mixture.replay.sources.{domain}", domain, remedy)


@remembered
def _new_before(recipe: Recipe, name: str) -> dict[str, None]:
    """Domains that the ancestors of a version read as new data."""
    if (parent := parent_of(recipe.versions[name])) is None:
        return {}
    return _new_before(recipe, parent) | dict.fromkeys(new_domains(recipe.versions[parent]))


def _known(recipe: Recipe, where: str, named: dict) -> Problems:
    for name in named:
        source = source_of(name)
        if source not in recipe.sources:
            hint = f"; dates are written {RANGE}" if "[" in name else near(source, recipe.sources)
            yield Problem(f"{where}.{name}", name, f"no such source{hint}")


def _names(recipe: Recipe, where: str, named: dict) -> Problems:
    yield from _known(recipe, where, named)
    beside = overlapping(named)
    for name in named:
        if source_of(name) not in recipe.sources:
            continue
        yield from _labels(recipe, f"{where}.{name}", name)
        for other in takewhile(partial(ne, name), beside(name)):
            remedy = f"overlaps `{other}`: a document would come from both; leave one out"
            yield Problem(f"{where}.{name}", name, remedy)


def _labels(recipe: Recipe, where: str, name: str) -> Problems:
    """Checks labels in a name against what documents of the source can have, as far as known before the data stage."""
    domain = parse(name)
    source = recipe.sources[domain.source]
    yield from domain_dates(where, name, source)
    if domain.with_prefix:
        own = name.removesuffix(PREFIXED)
        remedy = f"names what is measured; `{own}` is read with its prefix, unless it has `prefix: false`"
        yield Problem(where, name, remedy)
    if domain.labels and domain.source == "replay":
        yield Problem(where, name, "a source named `replay` cannot be mixed by label; rename it")
    if domain.topic is not None and source.topics is None:
        yield Problem(where, name, f"`{domain.source}` has no topics; set sources.{domain.source}.topics")
        return
    known = possible_topics(source)
    if domain.topic is not None and known is not None and domain.topic not in known:
        yield Problem(where, name, f"no such topic in `{domain.source}`{near(domain.topic, known)}")


def subsets(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that a subset by perplexity has exactly one of `tokens` and `share`."""
    for where, _domain, member in named_places(version, f"versions.{name}.mixture"):
        lowest, where = member.lowest_perplexity, f"{where}.lowest_perplexity"
        if lowest is None:
            continue
        if (lowest.tokens is None) == (lowest.share is None):
            yield Problem(where, lowest.model_dump(), "should have exactly one of `tokens` and `share`")


def named_places(version: Version, where: str) -> Iterator[tuple[str, str, MixtureSource]]:
    """Every place that a mixture names: its path, domain and settings."""
    named = [("sources", version.mixture.sources)]
    named += [(f"switches.{n}.sources", switch.sources) for n, switch in enumerate(version.mixture.switches)]
    if version.mixture.replay is not None:
        named.append(("replay.sources", version.mixture.replay.sources))
    for part, sources in named:
        for domain, member in sources.items():
            yield f"{where}.{part}.{domain}", domain, member


def curriculum(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that orders and subsets by perplexity have a model, and that a model has a use."""
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
    """Checks that buckets are given to orders by perplexity alone."""
    for where, _domain, member in named_places(version, f"versions.{name}.mixture"):
        if member.buckets is not None and member.order not in RANKED:
            remedy = f"has no use with `order: {member.order}`; needs one by perplexity"
            yield Problem(f"{where}.buckets", member.buckets, remedy)


def switches(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks when switches come, and that sources keep their order across them."""
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
    if any(switch.at_lr is not None for switch in mixture.switches) and name in too_long(recipe):
        remedy = f"`at_lr` is for versions of up to {MOST_RATES:,} steps, all of them together; use `at` or `at_tokens`"
        yield Problem(where, None, remedy)
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
    """Checks that a domain order has several domains, a step for each, and nothing else that sets shares."""
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


CHECKS = (new_names, replay, curriculum, buckets, subsets, switches, domains, reweighting)
