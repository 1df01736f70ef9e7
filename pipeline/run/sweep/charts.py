"""The plots of a sweep: measures against the swept field, or version by version."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.evaluate.report.figures import Axis, Line, line_chart
from perdure.pipeline.evaluate.units import UNIT_NAMES
from perdure.pipeline.run.sweep.gather import row_in
from perdure.pipeline.run.sweep.schema import Row, Spread, SweepResult
from perdure.pipeline.run.sweep.table import gap_domains, gap_of, probe_kinds

UNITS = {
    "share": "share of tokens",
    "k": "share of tokens",
    "weight": "relative share",
    "tokens": "tokens",
    "seq_length": "tokens",
    "global_batch_size": "samples",
    "micro_batch_size": "samples",
    "warmup": "share of steps",
    "cooldown": "share of steps",
    "decay": "share of steps",
    "heldout_fraction": "share of documents",
    "max_lr": "learning rate",
    "min_lr": "learning rate",
    "constant_lr": "learning rate",
    "interval": "tokens",
}
"""Units of fields that have one, by the last part of their path."""

PLAIN = re.compile(r"[A-Za-z0-9._+=,-]{1,64}")
"""Settings that are put in a file's name as they are; others are hashed."""


@dataclass(frozen=True)
class Measure:
    """A measure that a plot shows.

    Attributes:
        name: In the names of files.
        title: In titles.
        ylabel: Name and unit of the y axis.
        curves: By label, what reads a curve's number from a row.
    """

    name: str
    title: str
    ylabel: str
    curves: dict[str, Callable[[Row], Spread | None]]


@dataclass(frozen=True)
class Chart:
    """A plot of a sweep.

    Attributes:
        name: Unique, and fit for a file.
        title: Its title.
        svg: The inline picture.
    """

    name: str
    title: str
    svg: str


def charts(found: SweepResult) -> list[Chart]:
    """Draws the plots of a sweep: each version against the swept field, or all versions side by side.

    Args:
        found: What `perdure.pipeline.run.sweep.gather.gather` returned.
    """
    all_rows = [row_in(row, found["unit"]) for row in found["rows"]]
    measures = _measures(found)
    if len(found["arms"]) > 1:
        rows = [row for row in all_rows if row["version"] in found["arms"]]
        names = [row["version"] for row in rows]
        return _draw(rows, names, "version", "all", "", measures)
    drawn = []
    for name in found["compared"]:
        drawn += _against_field([row for row in all_rows if row["version"] == name], name, measures)
    return drawn


def _measures(found: SweepResult) -> list[Measure]:
    unit = UNIT_NAMES[found["unit"]]
    bases = {"to the version before": "parent", "to the initial model": "initial"}
    return [
        Measure(
            "loss",
            "held-out loss",
            f"held-out loss ({unit})",
            {domain: _losses_on(domain) for domain in found["domains"]},
        ),
        Measure(
            "change",
            "change against the version it started from",
            f"change ({unit})",
            {domain: _change_on(domain) for domain in found["domains"]},
        ),
        Measure(
            "probes",
            "probes answered rightly",
            "accuracy (share of probes)",
            {kind: _accuracy_on(kind) for kind in probe_kinds(found)},
        ),
        Measure(
            "fuar",
            "FUAR",
            "FUAR (accuracy dropped / gained)",
            {label: _fuar_against(base) for label, base in bases.items()},
        ),
        Measure(
            "stability-gap",
            "stability gap",
            f"rise while training ({unit})",
            {domain or "mean": _depth_on(domain) for domain in gap_domains(found)},
        ),
    ]


def _losses_on(domain: str) -> Callable[[Row], Spread | None]:
    return lambda row: row["losses"][domain]


def _change_on(domain: str) -> Callable[[Row], Spread | None]:
    return lambda row: row["change"][domain]


def _accuracy_on(kind: str) -> Callable[[Row], Spread | None]:
    return lambda row: (row["probes"] or {}).get(kind)


def _fuar_against(base: str) -> Callable[[Row], Spread | None]:
    def read(row: Row) -> Spread | None:
        ratio = (row["fuar"] or {}).get(base)
        return ratio["value"] if ratio else None

    return read


def _depth_on(domain: str | None) -> Callable[[Row], Spread | None]:
    def read(row: Row) -> Spread | None:
        gap = gap_of(row, domain)
        return gap["depth"] if gap else None

    return read


def _against_field(rows: list[Row], version: str, measures: list[Measure]) -> list[Chart]:
    """A version's plots against the field with the most values, for each setting of the other fields.

    Args:
        rows: The version's rows.
        version: Its name.
        measures: What to plot.
    """
    fields = list(dict.fromkeys(path for row in rows for path in row["setting"]))
    if not fields:
        return []
    values = {field: {format_value(row["setting"].get(field)) for row in rows} for field in fields}
    swept = max(fields, key=lambda field: len(values[field]))
    panels: dict[str, list[Row]] = {}
    for row in rows:
        others = ", ".join(
            f"{field} = {format_value(row['setting'].get(field))}" for field in fields if field != swept
        )
        panels.setdefault(others, []).append(row)
    drawn = []
    for others, members in panels.items():
        x: list[str] | list[float] = [format_value(row["setting"].get(swept)) for row in members]
        places = [
            (number, row) for row in members if (number := _number(row["setting"].get(swept))) is not None
        ]
        if len(places) == len(members):
            places.sort(key=lambda place: place[0])
            x, members = [number for number, _ in places], [row for _, row in places]
        unit = UNITS.get(swept.rpartition(".")[2])
        xlabel = f"{swept} ({unit})" if unit else swept
        drawn += _draw(members, x, xlabel, version, others, measures)
    return drawn


def _draw(
    rows: list[Row],
    x: list[str] | list[float],
    xlabel: str,
    whose: str,
    others: str,
    measures: list[Measure],
) -> list[Chart]:
    """The plots of some rows; measures that no row has are left out.

    Args:
        rows: The rows.
        x: The place of each row on the x axis.
        xlabel: Name and unit of the x axis.
        whose: The version, or `all`.
        others: The setting of the fields that are not on the x axis.
        measures: What to plot.
    """
    drawn = []
    numbers = [place for place in x if not isinstance(place, str)]
    wide = bool(numbers) and numbers[0] > 0 and numbers[-1] >= 50 * numbers[0]
    suffix = f"-{_in_file_name(others)}" if others else ""
    for measure in measures:
        lines = []
        for colour, (label, read) in enumerate(measure.curves.items()):
            spreads = [read(row) for row in rows]
            if any(spread is not None for spread in spreads):
                mean = [spread and spread["mean"] for spread in spreads]
                low = [spread and spread["min"] for spread in spreads]
                high = [spread and spread["max"] for spread in spreads]
                lines.append(Line(label, mean, colour, low=low, high=high))
        if lines:
            ylabel = measure.ylabel if len(lines) > 1 else f"{lines[0].label}: {measure.ylabel}"
            title = f"{'all versions' if whose == 'all' else whose}: {measure.title}"
            title += f", {others}" if others else ""
            svg = line_chart(x, lines, Axis(ylabel), title, Axis(xlabel, log=wide), points=True)
            drawn.append(Chart(f"{whose}-{measure.name}{suffix}", title, svg))
    return drawn


def format_value(value: Any) -> str:
    """A swept value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _in_file_name(others: str) -> str:
    """A setting as part of a file's name: as it is, or as a hash."""
    text = re.sub(r"(?:[\w-]+\.)*([\w-]+) = ", r"\1=", others).replace(", ", ",")
    return text if PLAIN.fullmatch(text) else hash_of(others)[:8]


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
