"""The plan: a pure function from a global sample index to the tokens of one training sample.

A sample is `seq_length` consecutive *labels* of a source's token stream (its documents in order, each ended by
end-of-sequence), and the inputs are the same stream one token earlier; so every token is a label exactly once an
epoch. The last sample of an epoch is padded, its padding masked. State is one number: samples consumed.

A plan is a list of phases with constant shares. What was consumed never changes: another mixture is another phase.
A branch reads on in its parent's plan, so that its samples are numbered from `first_sample`; any other version's
plan begins at 0, and each of its sources at what the ancestors consumed of it (`start`).

On disk a plan is `plan.json` and, per source, two arrays that are memory-mapped, so that opening one takes the same
time for a thousand documents as for a billion: `<source>.documents.npy` (document numbers in order, counted over
all shards) and `<source>.ends.npy` (where each ends in the stream). `perdure.pipeline.plan.planning` writes them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.manifest import differences
from perdure.pipeline.plan import mixture as mixtures
from perdure.pipeline.plan.permutation import epoch_key, permute
from perdure.pipeline.recipe import Recipe, Version

LONGEST_NAME = 150
"""Letters of a file's name that a source and topic may take; file systems allow 255, and temporary names are longer."""


@dataclass(frozen=True)
class Phase:
    """A run of samples with constant shares of the sources.

    Attributes:
        first_sample: Global index of its first sample.
        num_samples: Its length.
        counts: Samples per block, one entry per key of the plan's `sources` (0: absent).
        start: Samples already taken from each source when it begins, by ancestors too.
        pattern: int32 [block], source of each position in a block.
        rank: int32 [block], how often that source occurred earlier in the block.
        plain: Keys whose documents are read without their prefixes.
    """

    first_sample: int
    num_samples: int
    counts: tuple[int, ...]
    start: tuple[int, ...]
    pattern: np.ndarray
    rank: np.ndarray
    plain: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """An opened plan.

    Attributes:
        keys: The mixture's places, as in `code` or `replay/prose`.
        sources: Per key: `source` (the domain), `order`, `documents`, `tokens`, `samples_per_epoch`, `data_hash`,
            `packing`, `overlong` and what `packing.Packed` counts (if samples are made of whole documents), `labels` (`last`,
            if the last turn of conversations alone counts), `scores`, `part` and `lowest_perplexity` (if not all documents are
            taken, see `perdure.pipeline.plan.parts`), `start` (samples that ancestors took from it), and `pool`: None, or whose
            first samples it replays (`key`, `order`, `samples_per_epoch` of that stream).
        phases: In order, without gaps, from sample 0.
        first_sample: Global index of the version's first sample.
        num_samples: Samples of the version.
        seq_length: Labels per sample.
        seed: Decides every shuffle.
        hash: Over everything that decides the stream.
        description: What `plan.json` says, with the phases that were appended.
    """

    keys: tuple[str, ...]
    sources: dict[str, dict]
    phases: tuple[Phase, ...]
    first_sample: int
    num_samples: int
    seq_length: int
    seed: int
    hash: str
    description: dict

    @property
    def end(self) -> int:
        """Global index after the version's last sample."""
        return self.first_sample + self.num_samples


def num_steps(recipe: Recipe, version: Version) -> int:
    """Optimizer steps of a version: its token budget, rounded up."""
    return -(-version.tokens // (recipe.training.seq_length * recipe.training.global_batch_size))


def num_samples(recipe: Recipe, version: Version) -> int:
    """Samples of a version: whole global batches."""
    return num_steps(recipe, version) * recipe.training.global_batch_size


# ------------------------------------------------------------------------------------------ locating


class Place(NamedTuple):
    """The source, epoch and index of a sample.

    Attributes:
        source: Number of its mixture key in `Plan.keys`.
        epoch: Of the pass over the source.
        sample: Its place in the source's stream.
    """

    source: int
    epoch: int
    sample: int


def phase_of_sample(plan: Plan, index: int) -> Phase:
    """The phase that the sample with a global index belongs to."""
    return plan.phases[bisect_right(plan.phases, index, key=lambda phase: phase.first_sample) - 1]


def place_of(plan: Plan, index: int) -> Place:
    """The place of the sample with a global index."""
    phase = phase_of_sample(plan, index)
    block, position = divmod(index - phase.first_sample, len(phase.pattern))
    number = int(phase.pattern[position])
    taken = phase.start[number] + block * phase.counts[number] + int(phase.rank[position])
    key = plan.keys[number]
    entry = plan.sources[key]
    epoch, sample = divmod(taken, entry["samples_per_epoch"])
    if entry["order"] == "shuffled":
        sample = permute(sample, entry["samples_per_epoch"], epoch_key(plan.seed, key, epoch))
    if (pool := entry["pool"]) and pool["order"] == "shuffled":
        # The sample that stood there in their first epoch.
        sample = permute(sample, pool["samples_per_epoch"], epoch_key(plan.seed, pool["key"], 0))
    return Place(number, epoch, sample)


def locate(plan: Plan, index: int) -> tuple[str, int, int]:
    """`place_of` with the mixture key in place of its number."""
    source, epoch, sample = place_of(plan, index)
    return plan.keys[source], epoch, sample


def consumed_samples(plan: Plan, samples: int) -> dict[str, int]:
    """Samples taken from each key by the first `samples` of the plan, what `start` says aside."""
    taken = [0] * len(plan.keys)
    for phase in plan.phases:
        taken = _after(
            taken, phase.counts, phase.pattern, min(samples - phase.first_sample, phase.num_samples)
        )
    return dict(zip(plan.keys, taken))


def shares_from(plan: Plan, index: int) -> dict[str, float]:
    """Share per key in the phase that begins at a global index; empty if none does."""
    phase = phase_of_sample(plan, index)
    if phase.first_sample != index:
        return {}
    return {key: count / len(phase.pattern) for key, count in zip(plan.keys, phase.counts)}


def consumed_by_version(plan: Plan) -> dict[str, int]:
    """Samples that the version itself takes from each key."""
    return consumed_between(plan, plan.first_sample, plan.num_samples)


def consumed_between(plan: Plan, first_sample: int, num_samples: int) -> dict[str, int]:
    """Samples taken from each key by `num_samples` from a global index on."""
    before, after = consumed_samples(plan, first_sample), consumed_samples(plan, first_sample + num_samples)
    return {key: after[key] - before[key] for key in plan.keys}


def _after(taken, counts: tuple[int, ...], pattern: np.ndarray, samples: int) -> list[int]:
    """Samples taken from each source after `samples` more of a phase."""
    blocks, rest = divmod(max(samples, 0), len(pattern))
    partial = np.bincount(pattern[:rest], minlength=len(counts))
    return [t + blocks * count + int(part) for t, count, part in zip(taken, counts, partial)]


# ------------------------------------------------------------------------------------------ opening


def open_plan(directory: Path, expected: dict | None = None, appended: list[dict] | None = None) -> Plan:
    """Opens a finished plan.

    Args:
        directory: A version's `plan/`.
        expected: What the plan should say; None accepts any.
        appended: Phases that training added to it, see `phase_entry`.

    Raises:
        PerdureError: If it says something else; the message names what differs.
    """
    description = read_json(directory / "plan.json")
    if expected is not None and (differing := differences(description, expected)):
        raise PerdureError(
            f"{directory}: planned from something else; give the version another name, or delete "
            f"its directory to train it anew. What differs: {'; '.join(differing)}"
        )
    return with_phases(make_plan(description), appended or [])


def with_phases(plan: Plan, appended: list[dict]) -> Plan:
    """A plan with more phases after its own; none may begin before the last one that is there."""
    if not appended:
        return plan
    starts = [entry["first_sample"] for entry in (*plan.description["phases"], *appended)]
    assert starts == sorted(starts)
    return make_plan(plan.description | {"phases": [*plan.description["phases"], *appended]})


def phase_entry(
    first_sample: int, shares: dict[str, Fraction], reason: str, plain: Sequence[str] = ()
) -> dict:
    """A phase for a plan's description: where it begins, samples per block by key, why it is there, and the keys that are read
    without prefixes, if some are.
    """
    counts = mixtures.block_counts(list(shares.values()))
    found = {"first_sample": first_sample, "counts": dict(zip(shares, counts)), "reason": reason}
    return found | ({"plain": sorted(plain)} if plain else {})


def make_plan(description: dict) -> Plan:
    """The plan that `plan.json` describes."""
    keys, entries = tuple(description["sources"]), description["phases"]
    end = description["first_sample"] + description["num_samples"]
    phases: list[Phase] = []
    taken = [entry["start"] for entry in description["sources"].values()]
    for number, entry in enumerate(entries):
        counts = tuple(entry["counts"].get(key, 0) for key in keys)
        pattern, rank = _block(counts)
        first = entry["first_sample"]
        until = min(entries[number + 1]["first_sample"] if number + 1 < len(entries) else end, end)
        plain = tuple(entry.get("plain", ()))
        phases.append(Phase(first, max(0, until - first), counts, tuple(taken), pattern, rank, plain))
        taken = _after(taken, counts, pattern, until - first)
    return Plan(
        keys,
        description["sources"],
        tuple(phases),
        description["first_sample"],
        description["num_samples"],
        description["seq_length"],
        description["seed"],
        hash_of(description),
        description,
    )


@lru_cache(maxsize=64)
def _block(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A block's pattern and rank, see `Phase`."""
    present = [number for number, count in enumerate(counts) if count]
    pattern = np.array(present, np.int32)[mixtures.block_pattern([counts[number] for number in present])]
    rank = np.empty_like(pattern)
    for number in present:
        places = np.flatnonzero(pattern == number)
        rank[places] = np.arange(len(places))
    return pattern, rank


def order_files(directory: Path, key: str) -> tuple[Path, Path]:
    """A source's two arrays: document numbers and stream ends; topics may have any characters."""
    name = _quoted(key)
    if len(name) > LONGEST_NAME:  # nine characters for one of a Chinese topic
        name = f"{name[:LONGEST_NAME]}@{hash_of(key)[:8]}"
    return directory / f"{name}.documents.npy", directory / f"{name}.ends.npy"


def tails_file(directory: Path, key: str) -> Path:
    """A third array, of a source whose documents were cut into pieces: the tokens of its document behind each entry."""
    documents, _ = order_files(directory, key)
    return documents.with_name(f"{documents.name.removesuffix('.documents.npy')}.tails.npy")


def open_tails(directory: Path, key: str) -> np.ndarray | None:
    """Memory-maps `tails_file`, int64 [entries]; None if entries are whole documents."""
    path = tails_file(directory, key)
    return np.load(path, mmap_mode="r") if path.exists() else None


def _quoted(key: str) -> str:
    return quote(key, safe="/ @").replace("~", "%7E").replace("/", "~")


def open_order(directory: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Memory-maps a source's order: document numbers and stream ends, both int64 [documents]."""
    documents, ends = order_files(directory, key)
    if not documents.exists():  # of a plan from before long names were cut
        documents, ends = (directory / f"{_quoted(key)}.{part}.npy" for part in ("documents", "ends"))
    return np.load(documents, mmap_mode="r"), np.load(ends, mmap_mode="r")
