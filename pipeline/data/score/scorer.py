"""The datatrove step that scores documents: one task per shard.

It does so in blocks, so that memory does not grow with the shard. Every block is a file of its own until all shards are done:
a scorer that was killed goes on after its last whole block, whatever it is asked for then. A document's scores depend on
nothing but itself, so the bytes depend neither on where it was killed nor on what was scored before.
"""

import io
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

from perdure.pipeline.core.files import read_json, write_atomic
from perdure.pipeline.core.shards import REF_MAX_UNITS, REF_MISSING, Shard, open_shard, second_half
from perdure.pipeline.data.backends.local import worker_number
from perdure.pipeline.data.score.losses import SIDECARS, finite_mean, load_model, score_documents, to_units
from perdure.pipeline.data.shard import PREFIXES

BLOCK_TOKENS = {"cuda": 1 << 22, "cpu": 1 << 18}
"""Tokens whose windows are batched together, and that a killed scorer may lose. Each width has one batch that is not full."""
ASKED = "asked"
"""Folder beside the artefact with a file a shard, bool [documents]: which of them the artefact is to have."""
BLOCKS = "blocks"
"""Folder beside the artefact for blocks: `documents`, int64, their places in the shard, in order; `units`, uint16 [kinds,
tokens], with a row for each of `SIDECARS`; `means`, float64 [documents, kinds]."""
ROWS = 1 << 20
"""Documents whose rows of the table are made at a time."""
SCORES = pa.schema(
    {
        "shard": pa.int32(),
        "sequence": pa.int32(),
        "num_tokens": pa.int32(),
        "mean_nll": pa.float64(),
        "perplexity": pa.float64(),
    }
    | {column: pa.float64() for column in SIDECARS.values() if column != "mean_nll"}
)
"""Columns of the scores' `docs.parquet`, a row for each scored document, in the order of the shards; means in nats, NaN if no
value is finite."""
PROGRESS, TOLD_SECONDS = "progress", 2.0
"""Folder beside the artefact with a file a shard, which says how many of its tokens are scored, and how often it does."""

_load_once = lru_cache(maxsize=1)(load_model)


class Scorer(PipelineStep):
    """Writes `<rank>.ref.{bin,idx}`, `<rank>.ent.{bin,idx}` and `docs.<rank>.parquet`."""

    type = "🔮 - SCORER"
    name = "Reference losses"
    split = "train"
    """Whose documents are scored: `train` or `heldout`."""

    def __init__(
        self,
        data_dir: Path,
        directory: Path,
        model_dir: Path,
        eos_id: int,
        windows: tuple[int, int],
        precision: str,
        threads: int | None,
        earlier: Path | None = None,
    ):
        super().__init__()
        self.data_dir, self.directory, self.model_dir = data_dir, directory, model_dir
        self.eos_id, self.windows, self.precision = eos_id, windows, precision
        self.threads, self.earlier = threads, earlier

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Scores the documents of shard `rank` that are asked for and not scored yet; writes the scores of all asked for."""
        work, name = self.directory.parent, f"{rank:05d}"
        shard = open_shard(self.data_dir / PREFIXES[self.split].format(rank))
        lengths, asked = np.asarray(shard.lengths), np.ones(len(shard.lengths), bool)
        if (work / ASKED).exists():
            asked = np.load(work / ASKED / f"{name}.npy")
        kept = scored_documents(self.earlier, rank) if self.earlier else np.zeros(len(lengths), bool)
        there = kept.copy()
        for file in block_files(work, rank):
            there[_documents(file)] = True
        self.done = int(lengths[asked & there & ~kept].sum(dtype=np.int64))
        self.progress = work / PROGRESS / name
        self.told = -TOLD_SECONDS
        self._tell(0)
        for documents in _blocks(np.flatnonzero(asked & ~there), lengths):
            self._score(shard, documents, work / BLOCKS / f"{name}.{documents[0]:09d}.npz")
        self._write(rank, lengths, asked)

    def _halves(self, rank: int, documents: np.ndarray) -> list[int]:
        """Where the second half of each document begins, which does not see the first; 0 where it is no pair."""
        if not read_json(self.data_dir / "manifest.json").get("pairs"):
            return [0] * len(documents)
        masks = open_shard(self.data_dir / f"{PREFIXES[self.split].format(rank)}.mask")
        places = ((masks.start(number), int(masks.lengths[number])) for number in documents.tolist())
        return [second_half(masks.values[start : start + length]) for start, length in places]

    def _write(self, rank: int, lengths: np.ndarray, asked: np.ndarray) -> None:
        """Writes the shard's sidecars and table; documents that were not asked for have no tokens and no row."""
        sidecars = [
            MegatronTokenizedFile(str(self.directory), f"{rank:05d}.{kind}", token_size=2)
            for kind in SIDECARS
        ]
        place, means = 0, np.empty((int(asked.sum()), len(SIDECARS)))
        counts = {"tokens": 0, "missing": 0, "clipped": 0}
        for document, (units, mean) in self._scores(rank, asked):
            for sidecar, values in zip(sidecars, units, strict=True):
                sidecar.sequence_lengths.extend([0] * (document - len(sidecar.sequence_lengths)))
                sidecar.write(values)
            means[place] = mean
            place += 1
            counts["tokens"] += units.shape[1]
            counts["missing"] += int((units[0] == REF_MISSING).sum())
            counts["clipped"] += int((units[0] == REF_MAX_UNITS).sum())
        assert place == len(means)
        for name, value in (counts | {"documents": place}).items():
            self.stat_update(name, value=value)
        for sidecar in sidecars:
            sidecar.sequence_lengths.extend([0] * (len(lengths) - len(sidecar.sequence_lengths)))
            sidecar.close()
        numbers = np.flatnonzero(asked)
        with pq.ParquetWriter(self.directory / f"docs.{rank:05d}.parquet", SCORES) as table:
            for first in range(0, len(numbers), ROWS):
                own, mean = numbers[first : first + ROWS], means[first : first + ROWS]
                places = {"shard": np.full(len(own), rank), "sequence": own, "num_tokens": lengths[own]}
                columns = places | dict(zip(SIDECARS.values(), mean.T, strict=True))
                columns["perplexity"] = np.exp(columns["mean_nll"])
                table.write_table(pa.table(columns, SCORES))

    def _scores(self, rank: int, asked: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """The documents asked for, in order: their places in the shard, units, uint16 [kinds, tokens], and means, float64
        [kinds]."""
        files = block_files(self.directory.parent, rank)
        block = np.full(len(asked), -1)
        for number, file in enumerate(files):
            block[_documents(file)] = number

        @lru_cache(maxsize=8)  # blocks of several calls may lie in one another
        def opened(number: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
            with np.load(files[number]) as found:
                ends, units = np.cumsum(found["lengths"]), found["units"]
                parts = np.split(units, ends[:-1], axis=1)
                return dict(
                    zip(found["documents"].tolist(), zip(parts, found["means"], strict=True), strict=True)
                )

        earlier = _Earlier(self.earlier, rank) if self.earlier else None
        for document in np.flatnonzero(asked).tolist():
            if block[document] >= 0:
                yield document, opened(int(block[document]))[document]
            else:
                assert earlier is not None
                yield document, earlier[document]

    def _tell(self, tokens: int) -> None:
        """Adds to the number of scored tokens, and writes it to the progress file from time to time."""
        self.done += tokens
        if time.monotonic() - self.told >= TOLD_SECONDS or not tokens:
            write_atomic(self.progress, f"{self.done}\n")
            self.told = time.monotonic()

    def _score(self, shard: Shard, documents: np.ndarray, file: Path) -> None:
        """Writes a block, see `BLOCKS`."""
        import torch

        # A worker keeps its device: by task, two could meet on one while another idles.
        devices = torch.cuda.device_count()
        if self.threads is not None:  # else the task has its CPUs for itself
            torch.set_num_threads(self.threads)
        device = f"cuda:{worker_number() % devices}" if devices else "cpu"
        model = _load_once(self.model_dir, self.precision, device)
        lengths = np.asarray(shard.lengths[documents])
        starts = [shard.start(document) for document in documents.tolist()]
        texts = [
            np.asarray(shard.values[start : start + length], np.int64)
            for start, length in zip(starts, lengths.tolist(), strict=True)
        ]
        units, means = [], []
        halves = self._halves(int(file.name.split(".")[0]), documents)
        parts = [part for text, half in zip(texts, halves) for part in np.split(text, [half] if half else [])]
        found = score_documents(model, parts, self.eos_id, *self.windows, self._tell)
        for half in halves:
            scores = next(found) if not half else np.concatenate([next(found), next(found)], axis=1)
            units.append(to_units(scores))
            means.append([finite_mean(row) for row in scores])
        self._tell(0)
        content = io.BytesIO()
        block_units, block_means = np.concatenate(units, axis=1), np.array(means)
        np.savez(content, documents=documents, lengths=lengths, units=block_units, means=block_means)
        write_atomic(file, content.getvalue())


class _Earlier:
    """Finished scores of a shard, by document."""

    def __init__(self, directory: Path, rank: int):
        self.sidecars = [open_shard(directory / f"{rank:05d}.{kind}") for kind in SIDECARS]
        columns = ["sequence", *SIDECARS.values()]
        table = pq.read_table(directory / "docs.parquet", columns=columns, filters=[("shard", "==", rank)])
        self.documents = table["sequence"].to_numpy()
        self.means = np.stack([table[name].to_numpy() for name in columns[1:]], 1)

    def __getitem__(self, document: int) -> tuple[np.ndarray, np.ndarray]:
        start, length = self.sidecars[0].start(document), int(self.sidecars[0].lengths[document])
        units = np.stack([sidecar.values[start : start + length] for sidecar in self.sidecars])
        return units, self.means[np.searchsorted(self.documents, document)]


def scored_documents(scores: Path, task: int) -> np.ndarray:
    """Which documents of a shard have scores, bool [documents]; `scores` is a directory of them."""
    return np.asarray(open_shard(scores / f"{task:05d}.ref").lengths) > 0


def block_files(work: Path, rank: int) -> list[Path]:
    """Files of finished blocks of a shard, beside the artefact that is being made."""
    return sorted((work / BLOCKS).glob(f"{rank:05d}.*.npz"))


def block_documents(work: Path, rank: int) -> np.ndarray:
    """Numbers of the documents in these blocks, int64."""
    return np.concatenate([np.empty(0, np.int64), *map(_documents, block_files(work, rank))])


def _documents(file: Path) -> np.ndarray:
    with np.load(file) as block:
        return block["documents"]


def _blocks(documents: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Documents in runs of at least `BLOCK_TOKENS` tokens; the last may be smaller."""
    import torch

    size = BLOCK_TOKENS["cuda" if torch.cuda.device_count() else "cpu"]
    ends = np.cumsum(lengths[documents], dtype=np.int64)
    first = 0
    while first < len(documents):
        begun = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, begun + size)) + 1
        yield documents[first:last]
        first = last
