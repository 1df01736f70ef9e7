"""The datatrove step behind `score`: one task scores one shard, in blocks, so that memory does not grow with it."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

from perdure.pipeline.data.score import BLOCK_TOKENS, load_model, mean_nll, score_documents, to_units
from perdure.pipeline.data.shard import PREFIXES
from perdure.pipeline.shards import REF_MAX_UNITS, REF_MISSING, Shard, open_shard

SCORES = pa.schema(
    {
        "shard": pa.int32(),
        "sequence": pa.int32(),
        "num_tokens": pa.int32(),
        "mean_nll": pa.float64(),
        "perplexity": pa.float64(),
    }
)
"""Columns of the scores' `docs.parquet`."""

_load_once = lru_cache(maxsize=1)(load_model)


class Scorer(PipelineStep):
    """Writes `<rank>.ref.{bin,idx}` and `docs.<rank>.parquet`."""

    type = "🔮 - SCORER"
    name = "Reference losses"

    def __init__(
        self,
        data_dir: Path,
        directory: Path,
        model_dir: Path,
        eos_id: int,
        seq_length: int,
        precision: str,
        threads: int,
    ):
        super().__init__()
        self.data_dir, self.directory, self.model_dir = data_dir, directory, model_dir
        self.eos_id, self.seq_length, self.precision = eos_id, seq_length, precision
        self.threads = threads

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Scores shard `rank`."""
        import torch

        devices = torch.cuda.device_count()
        torch.set_num_threads(self.threads)
        model = _load_once(self.model_dir, self.precision, f"cuda:{rank % devices}" if devices else "cpu")
        shard = open_shard(self.data_dir / PREFIXES["train"].format(rank))
        sidecar = MegatronTokenizedFile(str(self.directory), f"{rank:05d}.ref", token_size=2)
        sequence = 0
        with pq.ParquetWriter(self.directory / f"docs.{rank:05d}.parquet", SCORES) as table:
            for documents in _blocks(shard):
                rows = []
                for losses in score_documents(model, documents, self.eos_id, self.seq_length):
                    units, mean = to_units(losses), mean_nll(losses)
                    sidecar.write(units)
                    rows.append((rank, sequence, len(units), mean, float(np.exp(mean))))
                    sequence += 1
                    self.stat_update("documents")
                    self.stat_update("tokens", value=len(units))
                    self.stat_update("missing", value=int((units == REF_MISSING).sum()))
                    self.stat_update("clipped", value=int((units == REF_MAX_UNITS).sum()))
                table.write_table(pa.table(dict(zip(SCORES.names, zip(*rows), strict=True)), SCORES))
        sidecar.close()


def _blocks(shard: Shard) -> Iterator[list[np.ndarray]]:
    """A shard's documents, in order, in groups of at least `BLOCK_TOKENS` tokens (the last one may be smaller)."""
    block: list[np.ndarray] = []
    size = start = 0
    for length in shard.lengths.tolist():
        block.append(np.asarray(shard.values[start : start + length], np.int64))
        start += length
        size += length
        if size >= BLOCK_TOKENS:
            yield block
            block, size = [], 0
    if block:
        yield block
