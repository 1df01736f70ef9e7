"""`eval_documents.parquet`: what every held-out document cost a model, for everything computed without the model."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from perdure.pipeline.manifest import write_atomic

DOCUMENTS = pa.schema(
    {
        "domain": pa.string(),
        "tokens": pa.int64(),
        "bytes": pa.int64(),
        "topic": pa.string(),
        "language": pa.string(),
        "loss": pa.float64(),
        "separator_loss": pa.float64(),
    }
)
"""Columns, a row a document in the order of its domain. `loss` is the sum over its `tokens` in nats; of it,
`separator_loss` is that of the end-of-sequence token, which `bytes` does not count."""


def table_name(evaluation: str, what: str) -> str:
    """The name of a table beside an evaluation: `eval.json` and `documents` give `eval_documents.parquet`."""
    return f"{Path(evaluation).stem}_{what}.parquet"


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes tables below one another, whole or not at all; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.concat_tables(tables), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())
