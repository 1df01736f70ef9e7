"""The plan: a pure function from a global sample index to the tokens of one training sample.

A sample is `seq_length` consecutive *labels* of a source's token stream (its documents in order, each ended by
end-of-sequence), and the inputs are the same stream one token earlier; so every token is a label exactly once an
epoch. The last sample of an epoch is padded, its padding masked. State is one number: samples consumed.

On disk a plan is `plan.json` and, per source, two arrays that are memory-mapped, so that opening one takes the same
time for a thousand documents as for a billion: `<source>.documents.npy` (document numbers in order, counted over
all shards) and `<source>.ends.npy` (where each ends in the stream).
"""

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perdure.pipeline import mixture as mixtures
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import differences, finish, hash_of, is_finished, read_json, write_json
from perdure.pipeline.recipe import Mixture, MixtureSource, Recipe, Version
from perdure.pipeline.shards import open_shard

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Phase:
    """A stretch of samples with constant shares.

    Attributes:
        first_sample: Global index of its first sample.
        num_samples: Its length.
        counts: Samples per block, one entry per key of the plan's `sources` (0: absent).
        start: Samples already taken from each source when it begins.
        pattern: int32 [block], source of each position in a block.
        rank: int32 [block], how often that source occurred earlier in the block.
    """

    first_sample: int
    num_samples: int
    counts: tuple[int, ...]
    start: tuple[int, ...]
    pattern: np.ndarray
    rank: np.ndarray


@dataclass(frozen=True)
class Plan:
    """An opened plan.

    Attributes:
        keys: The mixture's places, as in `code` or `replay/prose`.
        sources: Per key: `source`, `order`, `documents`, `tokens`, `samples_per_epoch`, `data_hash`.
        phases: In order, without gaps.
        seq_length: Labels per sample.
        seed: Decides every shuffle.
        hash: Over everything that decides the stream.
    """

    keys: tuple[str, ...]
    sources: dict[str, dict]
    phases: tuple[Phase, ...]
    seq_length: int
    seed: int
    hash: str

    @property
    def num_samples(self) -> int:
        """Samples in all phases."""
        return sum(phase.num_samples for phase in self.phases)


def num_steps(recipe: Recipe, version: Version) -> int:
    """Optimizer steps of a version: its token budget, rounded up."""
    return -(-version.tokens // (recipe.training.seq_length * recipe.training.global_batch_size))


def num_samples(recipe: Recipe, version: Version) -> int:
    """Samples of a version: whole global batches."""
    return num_steps(recipe, version) * recipe.training.global_batch_size


# ------------------------------------------------------------------------------------------ locating


def locate(plan: Plan, index: int) -> tuple[str, int, int]:
    """Where the sample with a global index comes from.

    Returns:
        The mixture key, the epoch over its source, and the sample's place in the source's stream.
    """
    phase = plan.phases[bisect_right(plan.phases, index, key=lambda phase: phase.first_sample) - 1]
    block, position = divmod(index - phase.first_sample, len(phase.pattern))
    number = int(phase.pattern[position])
    taken = phase.start[number] + block * phase.counts[number] + int(phase.rank[position])
    key = plan.keys[number]
    per_epoch = plan.sources[key]["samples_per_epoch"]
    epoch, sample = divmod(taken, per_epoch)
    if plan.sources[key]["order"] == "shuffled":
        sample = permute(sample, per_epoch, _mix(_mix(plan.seed, number), epoch))
    return key, epoch, sample


def consumed_samples(plan: Plan, samples: int) -> dict[str, int]:
    """Samples taken from each key after the first `samples` of the plan."""
    taken = [0] * len(plan.keys)
    for phase in plan.phases:
        blocks, rest = divmod(
            min(max(samples - phase.first_sample, 0), phase.num_samples), len(phase.pattern)
        )
        partial = np.bincount(phase.pattern[:rest], minlength=len(taken))
        taken = [t + blocks * count + int(part) for t, count, part in zip(taken, phase.counts, partial)]
    return dict(zip(plan.keys, taken))


def permute(index: int, size: int, key: int) -> int:
    """A pseudo-random permutation of range(size): 4 Feistel rounds over the next power of four, cycle-walked.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), method 2 and 3.
    """
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_number in range(4):
            left, right = right, left ^ (_mix(key + round_number, right) & mask)
        index = left << half | right
        if index < size:
            return index


def _mix(a: int, b: int) -> int:
    """SplitMix64's finaliser over two numbers."""
    x = (a * 0x9E3779B97F4A7C15 + b + 0xD1B54A32D192ED03) & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


# ------------------------------------------------------------------------------------------ building


def build_plan(
    directory: Path,
    recipe: Recipe,
    version: Version,
    data: dict[str, Path],
    scores: dict[str, Path],
) -> Plan:
    """Writes a version's plan, or opens the one that stands there.

    Args:
        directory: The version's `plan/`.
        recipe: The whole recipe.
        version: The version to plan for.
        data: Finished data directory per source.
        scores: Score directory (by `mixture.perplexity_model`) of each source that is ordered `easy_to_hard`.

    Raises:
        PerdureError: If a source would repeat more than `max_repetition` times, or the plan that stands there was
            made from something else (named).
    """
    members = _members(version.mixture)
    total = num_samples(recipe, version)
    seed, seq_length = recipe.seed, recipe.training.seq_length
    sources: dict[str, dict] = {}
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for key, (name, member) in members.items():
        documents, ends = _order(data[name], member, scores.get(name), _mix(seed, hash_key(key)))
        arrays[key] = (documents, ends)
        sources[key] = {
            "source": name,
            "order": member.order,
            "documents": len(documents),
            "tokens": int(ends[-1]),
            "samples_per_epoch": -(-int(ends[-1]) // seq_length),
            "data_hash": data_hash(data[name]),
            "scores": scores[name].name if member.order == "easy_to_hard" else None,
        }
    counts = mixtures.block_counts(list(mixtures.mixture_shares(version.mixture).values()))
    description = {
        "seed": seed,
        "seq_length": seq_length,
        "sources": sources,
        "phases": [{"first_sample": 0, "num_samples": total, "counts": dict(zip(members, counts))}],
    }
    if is_finished(directory):
        return open_plan(directory, expected=description)
    plan = _plan(description)
    for key, samples in consumed_samples(plan, total).items():
        epochs = samples / sources[key]["samples_per_epoch"]
        if epochs > version.mixture.max_repetition:
            raise PerdureError(
                f"source {key}: {samples * seq_length:,} tokens asked of {sources[key]['tokens']:,} would repeat it "
                f"{epochs:.1f} times; lower its weight or the version's tokens, or raise mixture.max_repetition "
                f"({version.mixture.max_repetition:g})"
            )
    directory.mkdir(parents=True, exist_ok=True)
    for key, (documents, ends) in arrays.items():
        _save(directory / f"{_file_name(key)}.documents.npy", documents)
        _save(directory / f"{_file_name(key)}.ends.npy", ends)
    write_json(directory / "plan.json", description)
    finish(directory, {"plan_hash": plan.hash})
    return plan


def open_plan(directory: Path, expected: dict | None = None) -> Plan:
    """Opens a finished plan.

    Args:
        directory: A version's `plan/`.
        expected: What the plan should say; None accepts any.

    Raises:
        PerdureError: If it says something else; the message names what differs.
    """
    description = read_json(directory / "plan.json")
    if expected is not None:
        # Later phases may have been appended; what was planned at the start may not change.
        start = description | {"phases": description["phases"][:1]}
        if differing := differences(start, expected):
            raise PerdureError(
                f"{directory}: planned from something else; give the version another name, or delete "
                f"its directory to train it anew. What differs: {'; '.join(differing)}"
            )
    return _plan(description)


def hash_key(text: str) -> int:
    """A 64-bit number from a name."""
    return int(hash_of(text)[:16], 16)


def data_hash(directory: Path) -> str:
    """What identifies a data directory's content: the hash over its shard files' hashes and its tokenizer."""
    manifest = read_json(directory / "manifest.json")
    shards = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hash_of([manifest["tokenizer_hash"], shards])[:16]


def _members(mixture: Mixture) -> dict[str, tuple[str, MixtureSource]]:
    parts = [(False, mixture.sources), (True, mixture.replay.sources if mixture.replay else {})]
    return {
        mixtures.source_key(name, replayed): (name, member)
        for replayed, part in parts
        for name, member in part.items()
    }


def _plan(description: dict) -> Plan:
    keys = tuple(description["sources"])
    phases: list[Phase] = []
    taken = (0,) * len(keys)
    for entry in description["phases"]:
        counts = tuple(entry["counts"].get(key, 0) for key in keys)
        present = [number for number, count in enumerate(counts) if count]
        pattern = np.array(present, np.int32)[mixtures.block_pattern([counts[number] for number in present])]
        rank = np.empty_like(pattern)
        for number in present:
            places = np.flatnonzero(pattern == number)
            rank[places] = np.arange(len(places))
        phases.append(Phase(entry["first_sample"], entry["num_samples"], counts, taken, pattern, rank))
        blocks, rest = divmod(entry["num_samples"], len(pattern))
        partial = np.bincount(pattern[:rest], minlength=len(keys))
        taken = tuple(t + blocks * count + int(part) for t, count, part in zip(taken, counts, partial))
    return Plan(
        keys,
        description["sources"],
        tuple(phases),
        description["seq_length"],
        description["seed"],
        hash_of(description),
    )


def _order(
    data: Path, member: MixtureSource, scores: Path | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Document numbers in training order, int64 [documents], and their ends in the stream, int64 [documents]."""
    tasks = read_json(data / "manifest.json")["tasks"]
    lengths = np.concatenate([open_shard(data / f"{task:05d}").lengths for task in range(tasks)])
    if member.order == "given":
        documents = np.arange(len(lengths))
    elif member.order == "shuffled":
        documents = np.random.Generator(np.random.Philox(key=seed)).permutation(len(lengths))
    else:
        assert scores is not None
        documents = np.argsort(_perplexities(scores), kind="stable")
    assert len(documents) == len(lengths)
    return documents, np.cumsum(lengths[documents], dtype=np.int64)


def _perplexities(scores: Path) -> np.ndarray:
    import pyarrow.parquet as parquet

    table = parquet.read_table(scores / "docs.parquet", columns=["shard", "sequence", "perplexity"])
    shard, sequence, perplexity = (table[name].to_numpy() for name in ("shard", "sequence", "perplexity"))
    return perplexity[np.lexsort((sequence, shard))]


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)


def _file_name(key: str) -> str:
    return key.replace("/", "~")


def open_order(directory: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Memory-maps a source's order: document numbers and stream ends, both int64 [documents]."""
    documents, ends = (directory / f"{_file_name(key)}.{part}.npy" for part in ("documents", "ends"))
    return np.load(documents, mmap_mode="r"), np.load(ends, mmap_mode="r")
