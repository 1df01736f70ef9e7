"""Construction of a version's plan: sources, their order, first samples and shares."""

import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.integrity import is_whole
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.plan import mixture as mixtures
from perdure.pipeline.plan.consumption import (
    Ancestor,
    refuse_repetition,
    replay_pools,
    same_stream,
    start_of,
    with_replay_pools,
)
from perdure.pipeline.plan.domain_order import random_order, similarity_order, token_frequencies
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.fisher import write_fisher_order
from perdure.pipeline.plan.history import history_of_plan
from perdure.pipeline.plan.lineage import continues_parent, switch_steps
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.order import RANKED, Order, count_documents, write_order
from perdure.pipeline.plan.packing import Packed, Packing, labels_of, pack_order, packing_of, refuse_long
from perdure.pipeline.plan.parts import build_part
from perdure.pipeline.plan.permutation import hash_key, mix
from perdure.pipeline.plan.plan import (
    Plan,
    make_plan,
    num_samples,
    num_steps,
    open_plan,
    order_files,
    phase_entry,
    tails_file,
)
from perdure.pipeline.plan.withdrawn import (
    Documents,
    blank,
    forgotten_sources,
    is_forgotten,
    left_out,
    withdrawn_by_source,
)
from perdure.pipeline.recipe import LowestPerplexity, Mixture, MixtureSource, Recipe
from perdure.pipeline.recipe.anchors import anchor_source


def build_plan(
    directory: Path,
    recipe: Recipe,
    name: str,
    data: dict[str, Path],
    scores: dict[str, Path],
    history: Sequence[Ancestor] = (),
) -> Plan:
    """Writes a version's plan, or opens the one that exists.

    Args:
        directory: The version's `plan/`.
        recipe: The whole recipe.
        name: The version to plan for.
        data: Finished data directory per source.
        scores: Score directory (by `mixture.perplexity_model`) of each source that is ordered or chosen by perplexity.
        history: The version's ancestors, see `perdure.pipeline.plan.consumption`.

    Raises:
        PerdureError: If a source would repeat more than `max_repetition` times, a part of one has no document, what the
            parents consumed cannot be found, or the plan that stands there was made from something else (named).
    """
    version = recipe.versions[name]
    before = history_of_plan(recipe, name, history)
    mixture = with_replay_pools(version.mixture, before, name, forgotten_sources(recipe, name))
    members = mixtures.members(mixture)
    found = replay_pools(before) if mixture.replay and mixture.replay.from_parents else {}
    sources: dict[str, dict] = {}
    orders: dict[str, Order] = {}
    planned = read_json(directory / "plan.json")["sources"] if is_whole(directory) else None
    estimated = anchor_source(version.anchor)
    used = {source_of(domain) for domain, _ in members.values()} | ({estimated} if estimated else set())
    gone = withdrawn_by_source(recipe, name, data, sorted(used & data.keys()))
    made = _Made(data, scores, planned, recipe.paths.work / f"packing.{name}", gone)
    shutil.rmtree(made.scratch, ignore_errors=True)
    for key, (domain, member) in members.items():
        pool = found.get(domain) if mixtures.is_replayed(key) else None
        orders[key], sources[key] = _stream(recipe, name, key, domain, member, made, pool)
        sources[key]["start"] = start_of(history, key, sources[key], recipe.seed, recipe.training.seq_length)
    continues = continues_parent(recipe, name)
    description = {
        "seed": recipe.seed,
        "seq_length": recipe.training.seq_length,
        "first_sample": 0,
        "num_samples": num_samples(recipe, version),
        "sources": sources,
        "phases": [] if continues else phase_entries(recipe, name, mixture, orders),
    }
    if continues:
        description |= _continued(history[0], sources, directory)
    if is_whole(directory):
        return open_plan(directory, expected=description)
    plan = make_plan(description)
    refuse_repetition(plan, version.mixture.max_repetition)
    directory.mkdir(parents=True, exist_ok=True)
    for key, order in orders.items():
        for file, built in zip(_files(directory, key), _files(made.scratch, key), strict=True):
            file.unlink(missing_ok=True)  # of a plan that was not finished
            if built.exists():
                shutil.move(built, file)
        if "packing" not in sources[key]:
            write_order(order, *order_files(directory, key))
        if "withdrawn" in sources[key]:
            blank(order_files(directory, key)[0], gone[source_of(sources[key]["source"])].numbers)
    if estimated is not None:
        write_fisher_order(directory, data[estimated], gone.get(estimated))
    shutil.rmtree(made.scratch, ignore_errors=True)
    write_json(directory / "plan.json", description)
    finish(directory, {"plan_hash": plan.hash})
    return plan


def data_hash(directory: Path) -> str:
    """Identity of a data directory's content: hash over its shards' hashes and its tokenizer."""
    manifest = read_json(directory / "manifest.json")
    shards = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hash_of([manifest["tokenizer_hash"], shards])[:16]


class _Made(NamedTuple):
    """What a plan is made from besides the recipe.

    Attributes:
        data: Finished data directory per source.
        scores: Score directory of each source that is ordered or chosen by perplexity.
        planned: Streams of the plan that stands there; None if none does.
        scratch: A directory for packed orders; it is made when there is one.
        gone: By source, documents that are withdrawn.
    """

    data: dict[str, Path]
    scores: dict[str, Path]
    planned: dict[str, dict] | None
    scratch: Path
    gone: dict[str, Documents]


def _stream(
    recipe: Recipe, name: str, key: str, domain: str, member: MixtureSource, made: _Made, pool: tuple | None
) -> tuple[Order, dict]:
    """A domain's order and its description; for a pool, those of the stream that it replays."""
    source, data = source_of(domain), made.data
    if source not in data:
        raise PerdureError(
            f"version {name}: source {source}, which its ancestors trained on, is not in the recipe"
        )
    ranking = made.scores.get(source)
    order, buckets, stream, lowest = member.order, member.buckets, key, member.lowest_perplexity
    packing, labels = packing_of(recipe, domain, member), labels_of(recipe, name, domain)
    if pool:
        packing = (pool[1]["packing"], pool[1]["overlong"]) if "packing" in pool[1] else None
        labels = pool[1].get("labels")
        stream, order, buckets = pool[0], pool[1]["order"], pool[1]["buckets"]
        lowest = LowestPerplexity.model_validate(told) if (told := pool[1].get("lowest_perplexity")) else None
        ranking = data[source] / "scores" / pool[1]["scores"] if pool[1]["scores"] else None
        if ranking is not None and not is_whole(ranking):
            raise PerdureError(
                f"version {name}: {ranking}, by which its ancestors chose from {domain}, is gone, so that it cannot be "
                "replayed from_parents; name mixture.replay.sources"
            )
    try:
        part = build_part(data[source], domain, lowest, ranking)
    except PerdureError as error:
        raise PerdureError(f"version {name}: {error}") from None
    documents, tokens = count_documents(data[source], part)
    entry: dict[str, Any] = {
        "source": domain,
        "order": order,
        "buckets": buckets,
        "documents": documents,
        "tokens": tokens,
        "samples_per_epoch": -(-tokens // recipe.training.seq_length),
        "data_hash": data_hash(data[source]),
        "scores": ranking.name if (order in RANKED or lowest) and ranking else None,
        "pool": None,
    }
    if labels:
        entry["labels"] = labels
    ordered = Order(data[source], order, buckets, ranking, mix(recipe.seed, hash_key(stream)), part)
    if packing:
        entry |= dict(zip(("packing", "overlong"), packing))
        entry |= _packed(made, key, ordered, packing, recipe.training.seq_length)
        if labels == "pairs" and not pool and not member.overlong:
            refuse_long(f"version {name}: {domain}", entry, recipe.training.seq_length)
        if entry["samples_per_epoch"] == 0:
            raise PerdureError(
                f"version {name}: no document of {domain} fits into training.seq_length = {recipe.training.seq_length:,}; "
                f"raise "
                "it, or set `overlong: cut`"
            )
    if part:
        entry |= {"part": part.name, "lowest_perplexity": lowest and lowest.model_dump()}
    if pool:
        if not same_stream(pool[1], entry):
            raise PerdureError(
                f"version {name}: source {domain} is no longer what its ancestors trained on (data {pool[1]['data_hash']}"
                f" -> {entry['data_hash']}), so that it cannot be replayed from_parents; restore it or name "
                "mixture.replay.sources"
            )
        described = {"key": stream, "order": order, "samples_per_epoch": entry["samples_per_epoch"]}
        entry |= {"order": member.order, "samples_per_epoch": pool[2], "pool": described}
    longest = recipe.training.seq_length if entry.get("overlong") == "drop" else None
    gone = None if is_forgotten(recipe.versions[name], key) else made.gone.get(source)
    if withdrawn := left_out(gone, part, longest):
        if withdrawn["documents"] == entry["documents"]:
            raise PerdureError(
                f"version {name}: all documents of {domain} are withdrawn; leave it out of the mixture"
            )
        entry["withdrawn"] = withdrawn
    return ordered, entry


def _packed(made: _Made, key: str, order: Order, how: Packing, size: int) -> dict:
    """What packing a source's documents comes to, with the packed order in the scratch directory, or as the plan says."""
    if made.planned is not None:
        known = made.planned.get(key, {})
        counted = {field.name: known.get(field.name) for field in fields(Packed)[1:]}
        return counted | {"samples_per_epoch": (known.get("pool") or known).get("samples_per_epoch")}
    made.scratch.mkdir(parents=True, exist_ok=True)
    documents, ends, tails = _files(made.scratch, key)
    write_order(order, documents, ends)
    return pack_order(documents, ends, tails, size, how).described()


def _files(directory: Path, key: str) -> tuple[Path, Path, Path]:
    return *order_files(directory, key), tails_file(directory, key)


def phase_entries(recipe: Recipe, name: str, mixture: Mixture, orders: dict[str, Order]) -> list[dict]:
    """The mixture's planned phases, numbered from the version's first sample."""
    batch, k = recipe.training.global_batch_size, mixtures.trained_fraction(recipe.versions[name])
    found: list[dict] = []
    if mixture.domain_order is not None:
        steps = mixtures.domain_steps(mixture, num_steps(recipe, recipe.versions[name]))
        first, plain = 0, mixtures.plain_keys(mixture)
        for domain, divergence in _domain_order(recipe, mixture, orders):
            entry = phase_entry(first * batch, mixtures.alone_shares(mixture, domain, k), "domain", plain)
            found.append(entry if divergence is None else entry | {"divergence": divergence})
            first += steps[domain]
        return found
    for part, step in enumerate((0, *switch_steps(recipe, name))):
        shares, plain = mixtures.mixture_shares(mixture, part, k), mixtures.plain_keys(mixture, part)
        found.append(phase_entry(step * batch, shares, "switch" if part else "start", plain))
    return found


def _domain_order(
    recipe: Recipe, mixture: Mixture, orders: dict[str, Order]
) -> list[tuple[str, float | None]]:
    """New domains in the order in which they are trained on; by similarity, with each one's divergence from the last."""
    domains = list(mixture.sources)
    if mixture.domain_order == "random":
        domains = random_order(domains, recipe.seed)
    if mixture.domain_order != "similarity":
        return [(domain, None) for domain in domains]
    frequencies = {key: token_frequencies(order.data, order.part) for key, order in orders.items()}
    start = None
    if mixture.replay:
        shares = mixtures.mixture_shares(mixture)  # relative to one another
        shares = {key: share for key, share in shares.items() if is_replayed(key)}
        whole = sum(shares.values())
        start = np.sum([float(share / whole) * frequencies[key] for key, share in shares.items()], axis=0)
    found, divergences = similarity_order({domain: frequencies[domain] for domain in domains}, start)
    return [(domain, round(divergence, 6)) for domain, divergence in zip(found, divergences)]


def _continued(parent: Ancestor, sources: dict[str, dict], directory: Path) -> dict:
    """The sources, phases and numbering that a plan takes from the parent's plan that it continues."""
    plan, end = parent
    for key, entry in sources.items():
        if not same_stream(plan.sources.get(key), entry):
            raise PerdureError(
                f"{directory}: source {key} is no longer what the parent trains on; a branch reads on in its "
                "parent's data. Restore it, or give the branch a mixture of its own"
            )
    return {"first_sample": end, "sources": plan.sources, "phases": plan.description["phases"]}
