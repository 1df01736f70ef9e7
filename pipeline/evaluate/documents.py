"""Held-out documents: which of them a domain is measured on, and their losses (`eval_documents.parquet`)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_atomic
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.remedies import remedy
from perdure.pipeline.core.shards import are_labels, open_shard
from perdure.pipeline.evaluate.sampling import draw
from perdure.pipeline.plan.domains import PLURALS, parse
from perdure.pipeline.plan.parts import dated

LABELS = tuple(PLURALS)
"""Kinds of labels of documents; documents with equal labels are a stratum."""
DOCUMENTS = pa.schema(
    {
        "domain": pa.string(),
        "tokens": pa.int64(),
        "bytes": pa.int64(),
        "topic": pa.string(),
        "language": pa.string(),
        "loss": pa.float64(),
        "separator_loss": pa.float64(),
        "heldout_tokens": pa.int64(),
        "hash": pa.string(),
    }
)
"""Columns, a row a document in the order of its domain. `loss` is the sum over its measured `tokens` in nats; of it,
`separator_loss` is that of the end-of-sequence token, which `bytes` does not count. A document that was cut has more
`heldout_tokens` than `tokens`. `hash` is that of its text, by which documents of other runs are found again; tables of earlier
releases have none."""


@dataclass(frozen=True)
class Heldout:
    """The held-out text that a domain is measured on.

    Attributes:
        documents: A table, a row a document that is measured, in part at least: its `number` over all shards, `shard`,
            `sequence` (place in the shard), `num_tokens`, `heldout_tokens` (those of it that count: all, or where the source
            has a label mask its labels), `topic`, `language`; of what is measured of it `tokens` that count and `bytes` (of
            the text that counts, in proportion to its tokens if it is cut).
        rows: int64 [pieces], the document of each piece that is measured.
        begins: int64 [pieces], where it begins in the document's tokens.
        stops: int64 [pieces], where it stops.
        all_documents: How many documents are held out.
        all_tokens: Their tokens that count.
    """

    documents: pa.Table
    rows: np.ndarray
    begins: np.ndarray
    stops: np.ndarray
    all_documents: int
    all_tokens: int

    def only(self, kept: np.ndarray) -> "Heldout":
        """What is measured of some of the documents.

        Args:
            kept: bool [documents], which ones.
        """
        pieces, renumbered = kept[self.rows], np.cumsum(kept) - 1
        return replace(
            self,
            documents=self.documents.filter(kept),
            rows=renumbered[self.rows[pieces]],
            begins=self.begins[pieces],
            stops=self.stops[pieces],
        )


def heldout(data: Path, domain: str, max_tokens: int) -> Heldout:
    """A domain's held-out documents: all in the order in which they were read, or a sample of them (`sampling.py`).

    Args:
        data: Its source's directory of shards.
        domain: Its name; labels choose among the source's documents.
        max_tokens: How many tokens are measured at most, those that do not count among them.
    """
    table = _labelled(data, domain)
    tokens = table["num_tokens"].to_numpy().astype(np.int64)
    drawn, begins, stops = np.arange(len(table)), np.zeros_like(tokens), tokens
    if tokens.sum() > max_tokens:
        hashes = np.frombuffer(bytes.fromhex("".join(table["hash"].to_pylist())), ">u8").astype(np.uint64)
        drawn, begins, stops = draw(tokens, hashes, strata(table), max_tokens)
    masked = _is_masked(data, domain)
    whole = tokens
    if masked:
        whole = _count_labels(data, table, np.arange(len(table)), np.zeros_like(tokens), tokens)
        there = _count_labels(data, table, drawn, begins, stops) > 0
        drawn, begins, stops = drawn[there], begins[there], stops[there]
    first = np.diff(drawn, prepend=-1) != 0  # pieces of one document stand together
    pieces = _count_labels(data, table, drawn, begins, stops) if masked else stops - begins
    number, all_tokens = len(table), int(whole.sum())
    table, rows, whole = table.take(drawn[first]), np.cumsum(first) - 1, whole[drawn[first]]
    measured = np.bincount(rows, pieces, len(table)).astype(np.int64)
    if masked:
        shares = measured / whole
    else:  # the separator has no bytes
        separators = np.bincount(rows, stops == whole[rows], len(table)).astype(np.int64)
        shares = (measured - separators) / np.maximum(whole - 1, 1)
    sizes = np.where(measured == whole, table["num_bytes"], np.rint(shares * table["num_bytes"].to_numpy()))
    columns = {"tokens": measured, "bytes": sizes.astype(np.int64), "heldout_tokens": whole}
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    return Heldout(table, rows, begins, stops, number, all_tokens)


def _is_masked(data: Path, domain: str) -> bool:
    """Whether some tokens of a domain's documents are no labels; without its prefix, all of a text are."""
    manifest = read_json(data / "manifest.json")
    if manifest.get("prefix") is not None:
        return parse(domain).with_prefix is not None
    return bool(manifest.get("label_mask"))


def _count_labels(
    data: Path, table: pa.Table, documents: np.ndarray, begins: np.ndarray, stops: np.ndarray
) -> np.ndarray:
    """Labels in some pieces of a table's documents, int64 [pieces], by the label masks of the held-out shards."""
    opened = cache(lambda shard: open_shard(data / f"heldout.{shard:05d}.mask"))
    shards, sequences = (table[name].to_numpy()[documents].tolist() for name in ("shard", "sequence"))
    found = np.zeros(len(documents), np.int64)
    for place, (shard, sequence, begin, stop) in enumerate(zip(shards, sequences, begins, stops)):
        start = opened(shard).start(sequence)
        found[place] = np.count_nonzero(are_labels(opened(shard).values[start + begin : start + stop]))
    return found


def is_sampled(data: Path, domain: str, max_tokens: int) -> bool:
    """Whether a domain has more held-out tokens than are measured, so that a sample stands for all."""
    manifest = read_json(data / "manifest.json")
    if manifest["counts"]["heldout"]["tokens"] <= max_tokens:
        return False
    whole = not parse(domain).is_part and manifest.get("prefix") is None
    return whole or int(_labelled(data, domain)["num_tokens"].to_numpy().sum()) > max_tokens


def _labelled(data: Path, domain: str) -> pa.Table:
    """The held-out documents that have a domain's labels and dates; `num_tokens` without the prefix, unless it is measured."""
    table = _heldout_table(data, (data / "docs.parquet").stat().st_mtime_ns)
    fits = np.ones(len(table), bool)
    for kind, label in parse(domain).labels.items():
        fits &= np.array(table[kind].to_pylist(), object) == label
    if parse(domain).has_dates:
        fits &= dated(np.array(table["date"].to_pylist(), object), parse(domain))
    table = table.filter(fits)
    if "prefix_tokens" in table.column_names and parse(domain).with_prefix is None:
        place = table.column_names.index("num_tokens")
        shorter = table["num_tokens"].to_numpy() - table["prefix_tokens"].to_numpy()
        table = table.set_column(place, "num_tokens", pa.array(shorter))
    return table


@cache
def _heldout_table(data: Path, _written: int) -> pa.Table:
    """The held-out rows of `docs.parquet`, cached since every measurement reads them."""
    columns = ["shard", "sequence", "num_tokens", "num_bytes", "hash", *LABELS]
    there = parquet.read_schema(data / "docs.parquet").names
    columns += [name for name in ("date", "prefix_tokens") if name in there]
    rows = [("split", "==", "heldout")]
    table = parquet.read_table(data / "docs.parquet", columns=columns, filters=rows)
    table = table.sort_by([("shard", "ascending"), ("sequence", "ascending")])
    return table.append_column("number", pa.array(np.arange(len(table))))


def strata(table: pa.Table) -> np.ndarray:
    """Stratum of each document, by topic and language, int64 [documents]."""
    columns = (table[kind].to_pylist() for kind in LABELS)
    names = [tuple("" if label is None else f"={label}" for label in labels) for labels in zip(*columns)]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([numbers[name] for name in names], np.int64)


def table_name(evaluation: str, what: str) -> str:
    """The name of a table beside an evaluation: `eval.json` and `documents` give `eval_documents.parquet`."""
    return f"{Path(evaluation).stem}_{what}.parquet"


def require_tables(evaluation: Path) -> None:
    """Checks that the tables beside an evaluation are those that were made with it.

    Args:
        evaluation: Its JSON file, which may be absent, or from before it recorded their hashes.

    Raises:
        PerdureError: If a table is missing or damaged, naming it and what to delete.
    """
    recorded = read_json(evaluation).get("tables", {}) if evaluation.exists() else {}
    for name, digest in recorded.items():
        table = evaluation.with_name(name)
        if not table.is_file() or hash_file(table) != digest:
            raise PerdureError(f"{table}: missing or damaged; {remedy(table)}")


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes the concatenation of tables atomically; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.concat_tables(tables), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())
