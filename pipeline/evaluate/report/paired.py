"""Paired bootstrap between versions of different runs that were measured on the same documents."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from perdure.pipeline.core.paths import RunPaths, VersionPaths
from perdure.pipeline.core.records import MeasuredOn
from perdure.pipeline.evaluate.bootstrap import RESAMPLES, resampled
from perdure.pipeline.evaluate.documents import require_tables, strata, table_name
from perdure.pipeline.evaluate.record import evaluation_directory
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import BITS, NATS, bits_per_nat

OTHER = "measured on other documents, or on other pieces of them"
MISSING = "no losses by document beside its report; `perdure eval` keeps them apart"
SINGLE = "of one document alone"


@dataclass(frozen=True)
class Measured:
    """A version's losses by document, and what identifies their text.

    Attributes:
        on: What identifies the text, as `measured` in its report.
        table: Its documents, see `perdure.pipeline.evaluate.documents`; None if they were not kept apart.
        seeds: By domain what decides the draws of its report's intervals.
    """

    on: MeasuredOn
    table: pa.Table | None
    seeds: dict[str, int]


@dataclass(frozen=True)
class Drawn:
    """Resampled losses of several models on the same documents of a domain.

    Attributes:
        values: By unit float64 [models, RESAMPLES], NaN for those without the first one's documents; in nats per token only
            if all have the same tokens.
        why: Per model, why it has none; None if it has.
        documents: How many there are.
    """

    values: dict[str, np.ndarray]
    why: list[str | None]
    documents: int


def read_measured(run: Path, report: Report, version: str) -> Measured:
    """Reads a version's losses by document, on the text of its run's report.

    Raises:
        PerdureError: If its table of documents is damaged.
    """
    on = report.get("measured") or cast(MeasuredOn, {})
    spans = report.get("intervals") or {}
    place = evaluation_directory(RunPaths(run).version(version).directory, on)
    require_tables(VersionPaths(place).evaluation)
    path = place / table_name("eval.json", "documents")
    seeds = {domain: spans["seed"] + number for number, domain in enumerate(spans.get("documents", ()))}
    return Measured(on, parquet.read_table(path) if path.exists() else None, seeds)


def drawn_losses(models: list[Measured], domain: str) -> Drawn:
    """Resampled losses on a domain, with the same draws for all models that were measured on the first one's documents.

    Documents are drawn by their tokens, as in reports, or by their bytes if tokenizers differ.
    """
    found = [_aligned(models[0], model, domain) for model in models]
    why = [table if isinstance(table, str) else None for table in found]
    tables = {number: table for number, table in enumerate(found) if not isinstance(table, str)}
    first = tables.get(0)
    values = {unit: np.full((len(models), RESAMPLES), math.nan) for unit in (NATS, BITS)}
    if first is None or len(first) < 2:
        return Drawn(values, [SINGLE if first is not None else reason or MISSING for reason in why], 0)
    tokens, size = first["tokens"].to_numpy().astype(float), first["bytes"].to_numpy().astype(float)
    same = all(table["tokens"].equals(first["tokens"]) for table in tables.values())
    seed = models[0].seeds.get(domain, 0)
    sums = np.stack([table["loss"].to_numpy() for table in tables.values()])
    drawn, rows = resampled(sums, tokens if same else size, seed, strata(first)), list(tables)
    if same:
        values[NATS][rows] = drawn
    values[BITS][rows] = drawn * (bits_per_nat(size.sum() / tokens.sum()) if same else 1 / math.log(2))
    return Drawn(values, why, len(first))


def _aligned(first: Measured, other: Measured, domain: str) -> pa.Table | str:
    """A model's documents of a domain in the order of the first one's, or why they are not the same."""
    if first.table is None or other.table is None:
        return MISSING
    ours, theirs = (
        table.filter(np.asarray(table["domain"]) == domain) for table in (first.table, other.table)
    )
    if not len(ours) or not len(theirs):
        return MISSING
    if not _same_text(first.on, other.on, domain):
        if len(ours) != len(theirs) or not (_whole(ours) and _whole(theirs)):
            return OTHER
        # By the hashes of their texts.
        order = [np.lexsort((table["bytes"], np.asarray(table["hash"], str))) for table in (ours, theirs)]
        back = np.argsort(order[0])
        theirs = theirs.take(order[1][back])
        if not theirs["hash"].equals(ours["hash"]):
            return OTHER
    return theirs if theirs["bytes"].equals(ours["bytes"]) else OTHER


def _same_text(one: MeasuredOn, other: MeasuredOn, domain: str) -> bool:
    """Whether two identities of text mean the same pieces of the same shards."""
    data = one.get("data", {}).get(domain)
    rules = [on.get("sampled", {}).get(domain) for on in (one, other)]
    sizes = [on.get("max_tokens") for on in (one, other)]
    known = data is not None and other.get("data", {}).get(domain) == data
    return known and rules[0] == rules[1] and (rules[0] is None or sizes[0] == sizes[1])


def _whole(table: pa.Table) -> bool:
    """Whether a table has the hash of every document, and all of each was measured."""
    return (
        "hash" in table.column_names
        and not table["hash"].null_count
        and table["tokens"].equals(table["heldout_tokens"])
    )
