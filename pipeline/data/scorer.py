"""The datatrove step behind `score`: one task scores one shard, in blocks, so that memory does not grow with it.

Every block is a file of its own until the shard is whole: a scorer that was killed goes on after its last whole block.
Batches are made inside a block, so the bytes do not depend on where it was killed.
"""

import io
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

from perdure.pipeline.data.executor import worker_number
from perdure.pipeline.data.losses import finite_mean, load_model, score_documents, to_units
from perdure.pipeline.data.shard import PREFIXES
from perdure.pipeline.manifest import write_atomic
from perdure.pipeline.shards import REF_MAX_UNITS, REF_MISSING, Shard, open_shard

BLOCK_TOKENS = 1 << 18
"""Tokens whose windows are sorted together, and that a killed scorer may lose."""
SCORES = pa.schema(
    {
        "shard": pa.int32(),
        "sequence": pa.int32(),
        "num_tokens": pa.int32(),
        "mean_nll": pa.float64(),
        "perplexity": pa.float64(),
        "mean_entropy": pa.float64(),
    }
)
"""Columns of the scores' `docs.parquet`, in the order of the shards; means in nats, NaN if no value is finite."""
PROGRESS, TOLD_SECONDS = "progress", 2.0
"""Folder beside the artefact with a file a shard, which says how many of its tokens are scored, and how often it does."""
SIDECARS = ("ref", "ent")
"""Losses and entropies, as rows of a block and as suffixes of files."""

_load_once = lru_cache(maxsize=1)(load_model)


class Scorer(PipelineStep):
    """Writes `<rank>.ref.{bin,idx}`, `<rank>.ent.{bin,idx}` and `docs.<rank>.parquet`."""

    type = "🔮 - SCORER"
    name = "Reference losses"

    def __init__(
        self,
        data_dir: Path,
        directory: Path,
        model_dir: Path,
        eos_id: int,
        windows: tuple[int, int],
        precision: str,
        threads: int | None,
    ):
        super().__init__()
        self.data_dir, self.directory, self.model_dir = data_dir, directory, model_dir
        self.eos_id, self.windows, self.precision = eos_id, windows, precision
        self.threads = threads

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Scores shard `rank`."""
        shard = open_shard(self.data_dir / PREFIXES["train"].format(rank))
        blocks = _blocks(shard)
        files = [self.directory.parent / "blocks" / f"{rank:05d}.{first:09d}.npz" for first, _ in blocks]
        sizes = [int(shard.lengths[first:last].sum(dtype=np.int64)) for first, last in blocks]
        self.done = sum(size for size, file in zip(sizes, files, strict=True) if file.exists())
        self.progress = self.directory.parent / PROGRESS / f"{rank:05d}"
        self.told = -TOLD_SECONDS
        self._tell(0)
        for (first, last), file in zip(blocks, files, strict=True):
            if not file.exists():
                self._score(shard, first, last, file)
        sidecars = [
            MegatronTokenizedFile(str(self.directory), f"{rank:05d}.{kind}", token_size=2)
            for kind in SIDECARS
        ]
        with pq.ParquetWriter(self.directory / f"docs.{rank:05d}.parquet", SCORES) as table:
            for (first, last), file in zip(blocks, files, strict=True):
                with np.load(file) as block:
                    units, means = block["units"], block["means"]
                lengths = np.asarray(shard.lengths[first:last])
                for sidecar, values in zip(sidecars, units, strict=True):
                    for document in np.split(values, np.cumsum(lengths)[:-1]):
                        sidecar.write(document)
                places = np.full(len(lengths), rank), np.arange(first, last)
                columns = [*places, lengths, means[:, 0], np.exp(means[:, 0]), means[:, 1]]
                table.write_table(pa.table(dict(zip(SCORES.names, columns, strict=True)), SCORES))
                self.stat_update("documents", value=len(lengths))
                self.stat_update("tokens", value=units.shape[1])
                self.stat_update("missing", value=int((units[0] == REF_MISSING).sum()))
                self.stat_update("clipped", value=int((units[0] == REF_MAX_UNITS).sum()))
        for sidecar in sidecars:
            sidecar.close()
        for file in files:
            file.unlink()

    def _tell(self, tokens: int) -> None:
        """Counts tokens that were scored, and writes the sum down from time to time, and at the end."""
        self.done += tokens
        if time.monotonic() - self.told >= TOLD_SECONDS or not tokens:
            write_atomic(self.progress, f"{self.done}\n")
            self.told = time.monotonic()

    def _score(self, shard: Shard, first: int, last: int, file: Path) -> None:
        """Writes a block: `units`, uint16 [2, tokens], and `means`, float64 [documents, 2]; see `SIDECARS`."""
        import torch

        # A worker keeps its device: by task, two could meet on one while another idles.
        devices = torch.cuda.device_count()
        if self.threads is not None:  # else the task has its CPUs for itself
            torch.set_num_threads(self.threads)
        device = f"cuda:{worker_number() % devices}" if devices else "cpu"
        model = _load_once(self.model_dir, self.precision, device)
        starts = [shard.start(document) for document in range(first, last)]
        documents = [
            np.asarray(shard.values[start : start + length], np.int64)
            for start, length in zip(starts, shard.lengths[first:last].tolist(), strict=True)
        ]
        units, means = [], []
        for scores in score_documents(model, documents, self.eos_id, *self.windows, self._tell):
            units.append(to_units(scores))
            means.append([finite_mean(row) for row in scores])
        self._tell(0)
        content = io.BytesIO()
        np.savez(content, units=np.concatenate(units, axis=1), means=np.array(means))
        write_atomic(file, content.getvalue())


def _blocks(shard: Shard) -> list[tuple[int, int]]:
    """First and last document (exclusive) of runs of at least `BLOCK_TOKENS` tokens; the last may be smaller."""
    blocks = []
    first = size = 0
    for document, length in enumerate(shard.lengths.tolist()):
        size += length
        if size >= BLOCK_TOKENS:
            blocks.append((first, document + 1))
            first, size = document + 1, 0
    return blocks + ([(first, len(shard.lengths))] if size else [])
