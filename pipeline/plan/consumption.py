"""Consumption of sources by a lineage: pure functions of plans, and tokens from metrics.

A history is the ancestors of a version, the nearest first, each as its plan and the global index after the last
sample of it that leads to the version.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.plan import Plan, consumed_by_version, consumed_samples, phase_of_sample
from perdure.pipeline.recipe import Mixture, MixtureSource

Ancestor = tuple[Plan, int]


def samples_consumed(ancestor: Ancestor, key: str) -> int:
    """Samples that an ancestor and its own ancestors took from a stream, repetitions included."""
    plan, end = ancestor
    return plan.sources[key]["start"] + consumed_samples(plan, end)[key]


def start_of(history: Iterable[Ancestor], key: str, entry: dict, seed: int, seq_length: int) -> int:
    """First sample of a stream in a new version: after what its ancestors consumed; 0 for a new or another stream.

    Args:
        history: The ancestors.
        key: Place in the mixture.
        entry: Its description in the new plan. Another order, other data or another pool are another stream.
        seed: The new plan's.
        seq_length: The new plan's.
    """
    for plan, end in history:
        if (plan.seed, plan.seq_length) == (seed, seq_length) and same_stream(plan.sources.get(key), entry):
            return samples_consumed((plan, end), key)
    return 0


def same_stream(left: dict | None, right: dict) -> bool:
    """Whether two plans give a source's samples in the same order, whatever is withdrawn from them."""
    return left is not None and _stream(left) == _stream(right)


def _stream(entry: dict) -> dict:
    """What decides the samples of a stream, and their order."""
    return {key: value for key, value in entry.items() if key not in ("start", "withdrawn")}


def replay_pools(history: Iterable[Ancestor]) -> dict[str, tuple[str, dict, int]]:
    """Streams of ancestors that can be replayed, by source: key, description, number of distinct samples.

    A source counts with what was new data in some ancestor; with what was replayed only if it was never new. Had it
    several orders, the one of which most was consumed counts.
    """
    found: dict[str, tuple[bool, int, str, dict]] = {}
    for plan, end in history:
        for key, entry in plan.sources.items():
            distinct = min(samples_consumed((plan, end), key), entry["samples_per_epoch"])
            if entry["pool"] is not None or not distinct:
                continue
            rank = (not is_replayed(key), distinct)
            if entry["source"] not in found or rank > found[entry["source"]][:2]:
                found[entry["source"]] = (*rank, key, entry)
    return {source: (key, entry, distinct) for source, (_, distinct, key, entry) in found.items()}


def last_plain(history: Sequence[Ancestor], key: str) -> bool:
    """Whether the nearest ancestor that reads a stream read it without prefixes at its end."""
    for plan, end in history:
        if key in plan.sources:
            return key in phase_of_sample(plan, end - 1).plain
    return False


def with_replay_pools(
    mixture: Mixture, history: Sequence[Ancestor], name: str, forgotten: Collection[str]
) -> Mixture:
    """A mixture with the sources of `replay.from_parents` named and weighted by what the ancestors consumed.

    Args:
        mixture: The version's.
        history: Its ancestors.
        name: The version.
        forgotten: Sources that are not replayed.

    Raises:
        PerdureError: If they consumed nothing.
    """
    replay = mixture.replay
    if replay is None or not replay.from_parents:
        return mixture
    sources = {
        source: MixtureSource(weight=distinct, order=replay.order, prefix=not last_plain(history, key))
        for source, (key, _entry, distinct) in replay_pools(history).items()
        if source_of(source) not in forgotten
    }
    if not sources:
        raise PerdureError(
            f"version {name}: its ancestors have consumed nothing to replay; name mixture.replay.sources"
        )
    return mixture.model_copy(update={"replay": replay.model_copy(update={"sources": sources})})


def refuse_repetition(plan: Plan, limit: float) -> None:
    """Refuses a plan that repeats a source too often, what ancestors took included.

    Args:
        plan: The version's.
        limit: Its `max_repetition`.

    Raises:
        PerdureError: If a source would be read more often than that.
    """
    for key, samples in consumed_by_version(plan).items():
        entry = plan.sources[key]
        before = samples_consumed((plan, plan.first_sample), key)
        epochs = (before + samples) / entry["samples_per_epoch"]
        if samples and epochs > limit:
            earlier = f", after {before * plan.seq_length:,} by its ancestors," if before else ""
            tokens = min(entry["tokens"], entry["samples_per_epoch"] * plan.seq_length)
            raise PerdureError(
                f"source {key}: {samples * plan.seq_length:,} tokens asked of {tokens:,}{earlier} would repeat it "
                f"{epochs:.1f} times; lower its weight or the version's tokens, or raise mixture.max_repetition "
                f"({limit:g})"
            )


def ledger(history: Sequence[Ancestor]) -> dict[str, dict[str, int]]:
    """Tokens of every source that a lineage has consumed.

    Args:
        history: A version, then its ancestors.

    Returns:
        By domain, in tokens: `total`, `consumed` and `remaining` of the first pass over it as new data
        (`consumed + remaining = total`), `repeated` (new data beyond the first pass) and `replayed`. Replay of a source
        has a shuffle of its own, so that what remains may have been replayed. Exact, but for where the padded sample
        comes, as long as versions keep a source's order; of several orders, the one of which most was consumed counts.
        Where samples are made of whole documents, which have more and less padding, part of an epoch counts in proportion, and
        documents that are too long are no part of the total. Withdrawn documents count as if they were read.
        Of a source that changed, only the data that the nearest version saw counts.
    """
    found: dict[str, dict[str, int]] = {}
    data: dict[str, str] = {}
    seen: set[tuple] = set()
    for plan, end in history:
        for key, entry in plan.sources.items():
            source = entry["source"]
            if data.setdefault(source, entry["data_hash"]) != entry["data_hash"]:
                continue
            total = entry["tokens"]
            line = found.setdefault(
                source, {"total": total, "consumed": 0, "remaining": total, "repeated": 0, "replayed": 0}
            )
            line["total"] = max(
                line["total"], total
            )  # versions may take more or less of it (`lowest_perplexity`)
            # A stream's count holds its ancestors', so the nearest version that has it says all.
            stream = (key, plan.seed, repr(_stream(entry)))
            if stream in seen:
                continue
            seen.add(stream)
            epochs, rest = divmod(samples_consumed((plan, end), key), entry["samples_per_epoch"])
            whole = _whole(entry, plan.seq_length)
            size = plan.seq_length if "packing" not in entry else whole / entry["samples_per_epoch"]
            read = epochs * whole + min(round(rest * size), whole)
            if is_replayed(key):
                line["replayed"] += read
            else:
                line["consumed"] = max(line["consumed"], min(read, total))
                line["repeated"] += max(0, read - total)
            line["remaining"] = line["total"] - line["consumed"]
    return found


def _whole(entry: dict, seq_length: int) -> int:
    """Tokens of an epoch of a stream; of a pool, of what was trained on."""
    if "packing" not in entry:
        return min(entry["tokens"], entry["samples_per_epoch"] * seq_length)
    stream = entry["pool"] or entry
    return round(entry["tokens"] * entry["samples_per_epoch"] / stream["samples_per_epoch"])


def tokens_at(directory: Path, step: int, step_tokens: int) -> int:
    """Tokens that a version had trained on after a step, from its metrics; where these lack it, the budget up to the step."""
    path, lines = VersionPaths(directory).metrics, []
    if path.exists():
        with path.open(encoding="utf-8") as file:
            lines = list(islice(file, step - 1, step)) if step else []
    return json.loads(lines[0])["tokens"] if lines and lines[0].endswith("\n") else step * step_tokens
