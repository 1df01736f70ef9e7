"""Held-out documents: which of them a domain is measured on, and what each cost a model (`eval_documents.parquet`)."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from perdure.pipeline.domains import parse
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


def heldout_documents(data: Path, domain: str) -> tuple[np.ndarray, pa.Table]:
    """A domain's held-out documents, in the order in which they were read.

    Args:
        data: Its source's directory of shards.
        domain: Its name; labels choose among the source's documents.

    Returns:
        Their numbers, int64 [documents], counted over all shards, and a table of their `shard`, `sequence` (place in the
        shard), `num_tokens`, `num_bytes` (of the text), `topic` and `language`.
    """
    table = _heldout_table(data, (data / "docs.parquet").stat().st_mtime_ns)
    fits = np.ones(len(table), bool)
    for kind, label in parse(domain).labels.items():
        fits &= np.array(table[kind].to_pylist(), object) == label
    return np.flatnonzero(fits), table.filter(fits)


@cache
def _heldout_table(data: Path, _written: int) -> pa.Table:
    """Read once: `docs.parquet` has all documents, and this is asked for at every measurement."""
    columns = ["shard", "sequence", "num_tokens", "num_bytes", "topic", "language"]
    rows = [("split", "==", "heldout")]
    table = parquet.read_table(data / "docs.parquet", columns=columns, filters=rows)
    return table.sort_by([("shard", "ascending"), ("sequence", "ascending")])


def count_measured(ends: np.ndarray, max_tokens: int) -> int:
    """How many of a domain's documents are measured: whole ones up to a budget, at least one.

    Args:
        ends: Where each ends in the stream, int64 [documents], at least one.
        max_tokens: The budget.
    """
    return max(1, int(np.searchsorted(ends, max_tokens, side="right")))


def table_name(evaluation: str, what: str) -> str:
    """The name of a table beside an evaluation: `eval.json` and `documents` give `eval_documents.parquet`."""
    return f"{Path(evaluation).stem}_{what}.parquet"


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes tables below one another, whole or not at all; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.concat_tables(tables), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())
