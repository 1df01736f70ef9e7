"""What the data stage made, read back."""

from pathlib import Path

import pyarrow.parquet as pq

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.core.tokenizers import load_tokenizer


def documents(directory: Path) -> list[dict]:
    """Every document of a data directory: its row of `docs.parquet`, with its text decoded from its shard."""
    tokenizer = load_tokenizer(next(directory.parent.parent.glob("tokenizer@*")))
    rows = pq.read_table(directory / "docs.parquet").to_pylist()
    for row in rows:
        prefix = "heldout." if row["split"] == "heldout" else ""
        shard = open_shard(directory / f"{prefix}{row['shard']:05d}")
        end = int(shard.lengths[: row["sequence"] + 1].sum())
        tokens = shard.values[end - row["num_tokens"] : end].tolist()
        assert tokens[-1] == tokenizer.eos_id
        row["text"] = tokenizer.tokenizer.decode(tokens[:-1])
    return rows


def counts(directory: Path) -> dict:
    return read_json(directory / "manifest.json")["counts"]


def trained_on(name: str) -> dict:
    return {"type": "train", "vocab_size": 400, "sources": [name]}
