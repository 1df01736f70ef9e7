"""Ordering and planning of synthetic documents, in a process of its own: `python ordering.py FUNCTION JSON_ARGUMENTS
ANSWER`."""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.plan.planning import build_plan

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import EOS, tiny_recipe


def write_documents(directory: Path, number: int) -> tuple[Path, Path]:
    """An index of documents of 100 to 899 tokens (the tokens are a hole in the file), and their perplexities."""
    rng = np.random.default_rng(0)
    data, scores = directory / "data", directory / "data" / "scores" / "model"
    scores.mkdir(parents=True)
    lengths = rng.integers(100, 900, number, dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int64) * 2
    with (data / "00000.idx").open("wb") as file:
        file.write(b"MMIDIDX\x00\x00" + np.array([1], np.uint64).tobytes() + bytes([8]))
        file.write(np.array([number, number + 1], np.uint64).tobytes())
        file.write(lengths.tobytes() + (ends - lengths * 2).tobytes())
        file.write(np.arange(number + 1, dtype=np.int64).tobytes())
    with (data / "00000.bin").open("wb") as file:
        file.truncate(int(ends[-1]))
    schema = pa.schema({"shard": pa.int32(), "sequence": pa.int32(), "perplexity": pa.float64()})
    with parquet.ParquetWriter(scores / "docs.parquet", schema) as writer:
        for first in range(0, number, 100_000):
            sequence = np.arange(first, min(first + 100_000, number), dtype=np.int32)
            columns = [np.zeros_like(sequence), sequence, rng.lognormal(3, 1, len(sequence))]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema))
    facts = {
        "tasks": 1,
        "eos_id": EOS,
        "vocab_size": 300,
        "tokenizer_hash": "x",
        "data_hash": "x",
        "files": {},
    }
    counts = {"train": {"documents": number, "tokens": int(ends[-1]) // 2}}
    finish(data, facts | {"counts": counts})
    write_json(scores / "manifest.json", {})
    return data, scores


def order(directory: str, number: int, buckets: int | None) -> dict:
    """CPU seconds, and the peak of the process's memory before and after."""
    data, scores = Path(directory) / "data", Path(directory) / "data" / "scores" / "model"
    recipe = tiny_recipe(
        Path(directory),
        training__seq_length=1024,
        versions__v1__tokens=number * 400,
        versions__v1__mixture={"sources": {"a": {"order": "easy_to_hard", "buckets": buckets}}},
    )
    begun = time.process_time()
    build_plan(Path(directory) / f"plan{buckets}", recipe, "v1", {"a": data}, {"a": scores})
    seconds = time.process_time() - begun
    return {"seconds": seconds, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
