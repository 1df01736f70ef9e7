"""The order of a source's documents, by perplexity or random, sorted in bounded memory.

Keys are sorted in runs that lie on disk, and the runs are merged a block at a time. The result is the two arrays per
source that a plan consists of (`perdure.pipeline.plan.plan`).
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.core.sorting import ROWS, join, new_array, sort_keys

RANKED = ("easy_to_hard", "hard_to_easy")
"""Orders by perplexity."""


@dataclass(frozen=True)
class Order:
    """The settings that decide the order of a source's documents.

    Attributes:
        data: The source's directory of shards.
        kind: `shuffled`, `given`, `easy_to_hard` (by rising perplexity) or `hard_to_easy` (by falling). Documents of equal
            perplexity keep the order in which they were read; those without one come last.
        buckets: Number of runs of (within one) equally many documents that a ranked order is cut into; inside a bucket the
            documents are shuffled. None: as many as documents.
        scores: Directory of scores, for a ranked order.
        seed: Decides what is shuffled.
        part: Directory of a part of the source (`perdure.pipeline.plan.parts`), whose documents alone are ordered; None: all.
    """

    data: Path
    kind: str
    buckets: int | None
    scores: Path | None
    seed: int
    part: Path | None = None


def count_documents(data: Path, part: Path | None = None) -> tuple[int, int]:
    """Documents and tokens of a source's training split, as the data stage counted them, or of a part of it."""
    if part is not None:
        counts = read_json(part / "manifest.json")["taken"]
    else:
        counts = read_json(data / "manifest.json")["counts"]["train"]
    return counts["documents"], counts["tokens"]


def write_order(order: Order, documents: Path, ends: Path, rows: int = ROWS) -> None:
    """Writes the order of a source's documents.

    Args:
        order: Which.
        documents: Receives the document numbers in order, counted over all shards, int64 [documents], `.npy`.
        ends: Receives where each ends in the stream of tokens, int64 [documents], `.npy`.
        rows: Documents handled at a time.
    """
    scratch = documents.with_name(f".{documents.name}.sorting")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    lengths = join(scratch / "lengths.npy", shard_lengths(order.data), np.int32)
    keep = None if order.part is None else np.load(order.part / "keep.npy", mmap_mode="r")
    chosen = len(lengths) if keep is None else int(keep.sum())
    parts = new_array(scratch / "documents.npy", np.int64, chosen)
    stops = new_array(scratch / "ends.npy", np.int64, chosen)
    place = end = 0
    for numbers in _sequence(order, len(lengths), keep, scratch, rows):
        after = place + len(numbers)
        parts[place:after] = numbers
        stops[place:after] = end + np.cumsum(lengths[numbers], dtype=np.int64)
        place, end = after, int(stops[after - 1])
    assert place == chosen, "scores and shards have the same documents"
    assert (place, end) == count_documents(order.data, order.part), "shards hold what was counted"
    parts.flush()
    stops.flush()
    (scratch / "documents.npy").replace(documents)
    (scratch / "ends.npy").replace(ends)
    shutil.rmtree(scratch)


def splitmix64(seed: int, numbers: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele et al. 2014): pseudo-random uint64 [n] from a seed and uint64 [n] numbers."""
    step = np.array([0x9E3779B97F4A7C15], np.uint64)
    x = (numbers.astype(np.uint64) + np.uint64(1)) * step + np.uint64(seed & (1 << 64) - 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _sequence(
    order: Order, number: int, keep: np.ndarray | None, scratch: Path, rows: int
) -> Iterator[np.ndarray]:
    """Document numbers in order, in parts; those that `keep` (bool [documents]) leaves out are passed over."""
    if order.kind == "given":
        yield from _kept(_ranges(number, rows), keep)
    elif order.kind == "shuffled":
        keys = (splitmix64(order.seed, part) for part in _ranges(number, rows))
        yield from _kept(_sorted(scratch / "shuffled", keys, rows), keep)
    else:
        ranked = _kept(_sorted(scratch / "ranked", _ranks(order), rows), keep)
        if order.buckets is None:
            yield from ranked
            return
        chosen = number if keep is None else int(keep.sum())
        documents = join(scratch / "ranked.npy", ranked, np.int64, chosen)
        shift = np.uint64(40)  # of the key's 64 bits, 24 say which bucket
        keys = (
            ((part * order.buckets // chosen).astype(np.uint64) << shift)
            | (splitmix64(order.seed, part) >> np.uint64(24))
            for part in _ranges(chosen, rows)
        )
        for places in _sorted(scratch / "buckets", keys, rows):
            yield documents[places]


def _ranges(number: int, rows: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + rows, number)) for first in range(0, number, rows))


def _kept(parts: Iterable[np.ndarray], keep: np.ndarray | None) -> Iterator[np.ndarray]:
    for numbers in parts:
        if keep is not None:
            numbers = numbers[keep[numbers]]
        if len(numbers):
            yield numbers


def _sorted(scratch: Path, keys: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    scratch.mkdir()
    yield from sort_keys(keys, scratch, rows)
    shutil.rmtree(scratch)


def _ranks(order: Order) -> Iterator[np.ndarray]:
    """Keys in the order of the shards, of which the lowest comes first; documents without a perplexity come last."""
    assert order.scores is not None
    sign = 1.0 if order.kind == "easy_to_hard" else -1.0
    for perplexity in perplexities(order.scores):
        yield np.where(np.isnan(perplexity), np.inf, sign * perplexity)


def perplexities(scores: Path) -> Iterator[np.ndarray]:
    """Perplexities of training documents in the order of the shards, float64, in parts; NaN where there is none."""
    import pyarrow.parquet as parquet

    before = -1
    for batch in parquet.ParquetFile(scores / "docs.parquet").iter_batches(
        columns=["shard", "sequence", "perplexity"]
    ):
        shard, sequence, perplexity = (column.to_numpy() for column in batch.columns)
        places = np.concatenate([[before], (shard.astype(np.int64) << 32) + sequence])
        assert (np.diff(places) > 0).all(), "rows stand in the order of the shards"
        before = places[-1]
        yield perplexity


def shard_lengths(data: Path) -> list[np.ndarray]:
    """Tokens of each training document, int32, per shard."""
    tasks = read_json(data / "manifest.json")["tasks"]
    return [open_shard(data / f"{task:05d}").lengths for task in range(tasks)]
