"""Statistics over losses by document: intervals, paired changes, and losses by topic and language."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from perdure.pipeline.evaluate.bootstrap import LEVEL, RESAMPLES, interval, resampled
from perdure.pipeline.evaluate.documents import LABELS, strata
from perdure.pipeline.evaluate.units import bits_per_nat


@dataclass(frozen=True)
class Documents:
    """The held-out documents of a domain, with each model's losses.

    Attributes:
        tokens: float64 [documents].
        bytes: float64 [documents].
        labels: By kind, the label of every document or None.
        losses: float64 [rows, documents], summed nats; NaN for models that were not measured on these documents.
        strata: int64 [documents], the number of each one's topic and language.
    """

    tokens: np.ndarray
    bytes: np.ndarray
    labels: dict[str, list[str | None]]
    losses: np.ndarray
    strata: np.ndarray

    @property
    def bits_per_nat(self) -> float:
        """Factor from nats per token to bits per byte."""
        return float(bits_per_nat(self.bytes.sum() / self.tokens.sum()))


@dataclass(frozen=True)
class Ancestry:
    """A version's row in the loss matrix, and those it is compared with.

    Attributes:
        row: Its row.
        parent: The row of what it started from; 0 is the initial model. None is a place where a branch left its parent
            before its end: documents were not kept apart there.
        best: By domain that it may have forgotten, the row on its path with the lowest loss; None is such a place.
    """

    row: int
    parent: int | None
    best: dict[str, int | None]


def read_documents(paths: list[Path], domains: list[str]) -> dict[str, Documents]:
    """Reads the documents of every domain from one table per row of the loss matrix; tables may be missing.

    A row that was measured on other documents than the latest counts as not measured: pairs would be no pairs.
    """
    tables = [parquet.read_table(path) if path.exists() else None for path in paths]
    found = {}
    for domain in domains:
        own = [table and table.filter(np.asarray(table["domain"]) == domain) for table in tables]
        reference = next((table for table in reversed(own) if table), None)
        if reference is None:
            continue
        columns = ["tokens", "bytes"]
        nothing = np.full(len(reference), math.nan)
        found[domain] = Documents(
            reference["tokens"].to_numpy().astype(float),
            reference["bytes"].to_numpy().astype(float),
            {kind: reference[kind].to_pylist() for kind in LABELS},
            np.stack(
                [
                    table["loss"].to_numpy()
                    if table and table.select(columns).equals(reference.select(columns))
                    else nothing
                    for table in own
                ]
            ),
            strata(reference),
        )
    return found


def draws(documents: dict[str, Documents], seed: int) -> dict[str, np.ndarray]:
    """Resampled losses of every domain with several documents, float64 [rows, RESAMPLES], nats per token."""
    return {
        domain: resampled(entry.losses, entry.tokens, seed + number, entry.strata)
        for number, (domain, entry) in enumerate(documents.items())
        if len(entry.tokens) > 1
    }


def intervals(
    documents: dict[str, Documents],
    drawn: dict[str, np.ndarray],
    versions: dict[str, Ancestry],
    counting: list[str],
    rows: int,
    seed: int,
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Bootstrap intervals of every loss and, in pairs, of every change.

    Args:
        documents: From `read_documents`.
        drawn: From `draws`.
        versions: The versions that were measured.
        counting: Domains of the macro-average.
        rows: Of the loss matrix.
        seed: That of the draws.
        pairs: Versions to compare with each other.

    Returns:
        `level`, `resamples`, `seed`, `documents`, `loss`, `macro`, `change`, `from_initial`, `forgetting`, `macro_change`, the
        last and `macro` in bits per byte, as docs/evaluation.md says, and `pairs`: per pair, by domain, the interval of the
        first one's loss minus the second one's.
    """
    nothing = np.full((rows, RESAMPLES), math.nan)
    known = bool(counting) and all(domain in drawn for domain in counting)
    macro = np.mean([drawn[domain] for domain in counting], axis=0) if known else nothing
    bits = [drawn[name] * documents[name].bits_per_nat for name in counting] if known else [nothing]
    macro_bits = np.mean(bits, axis=0)

    def change(values: np.ndarray, row: int, base: int | None) -> list[float] | None:
        return None if base is None else interval(values[row] - values[base])

    def changes(row: int, base: int | None) -> dict[str, list[float] | None]:
        return {domain: change(values, row, base) for domain, values in drawn.items()}

    return {
        "level": LEVEL,
        "resamples": RESAMPLES,
        "seed": seed,
        "documents": {domain: len(entry.tokens) for domain, entry in documents.items()},
        "pairs": [changes(versions[one].row, versions[other].row) for one, other in pairs],
        "loss": [{domain: interval(values[row]) for domain, values in drawn.items()} for row in range(rows)],
        "macro": [interval(values) for values in macro],
        "macro_bits_per_byte": [interval(values) for values in macro_bits],
        "change": {name: changes(at.row, at.parent) for name, at in versions.items()},
        "from_initial": {name: changes(at.row, 0) for name, at in versions.items()},
        "forgetting": {
            name: {
                domain: change(drawn[domain], at.row, best)
                for domain, best in at.best.items()
                if domain in drawn
            }
            for name, at in versions.items()
        },
        "macro_change": {name: change(macro, at.row, at.parent) for name, at in versions.items()},
        "macro_change_bits_per_byte": {
            name: change(macro_bits, at.row, at.parent) for name, at in versions.items()
        },
    }


def by_label(documents: dict[str, Documents], seed: int) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Losses by topic and language: kind -> domain -> label -> numbers, see docs/evaluation.md.

    Documents without a label are left out, and so are domains without any label.
    """
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {kind: {} for kind in LABELS}
    for number, (domain, entry) in enumerate(documents.items()):
        for kind, labels in entry.labels.items():
            names = sorted({label for label in labels if label is not None})
            if names:
                found[kind][domain] = {
                    name: _label(entry, np.array([label == name for label in labels]), seed + number)
                    for name in names
                }
    return found


def _label(entry: Documents, members: np.ndarray, seed: int) -> dict[str, Any]:
    tokens, size = entry.tokens[members].sum(), entry.bytes[members].sum()
    sums = entry.losses[:, members].sum(1)
    drawn = resampled(entry.losses[:, members], entry.tokens[members], seed, entry.strata[members])
    several = members.sum() > 1
    return {
        "documents": int(members.sum()),
        "tokens": int(tokens),
        "bytes": int(size),
        "loss": sums / tokens,
        "bits_per_byte": sums / math.log(2) / size,
        "intervals": [interval(values) if several else None for values in drawn],
    }
