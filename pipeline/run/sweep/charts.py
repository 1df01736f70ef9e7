"""The plots of a sweep: what its rows have in common, against the swept field, or version by version."""

import json
import re
from collections.abc import Callable
from typing import Any

from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.evaluate.report.figures import Line, line_chart
from perdure.pipeline.evaluate.units import WORDS
from perdure.pipeline.run.sweep.gather import row_in
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
"""Settings that stand in a file's name as they are; of others a hash does."""

Measure = tuple[str, str, str, list[tuple[str, Callable[[dict], dict | None]]]]
"""What one plot shows: its name, in words, the y axis, and by curve the number of a row (see `over_runs`)."""


def charts(found: dict[str, Any]) -> list[dict[str, str]]:
    """The plots of a sweep, in its unit: of each version against the swept field, or of all versions side by side.

    Args:
        found: What `perdure.pipeline.run.sweep.gather.gather` returned.

    Returns:
        Per plot its `name` (unique, fit for a file), `title` and inline `svg`.
    """
    found = found | {"rows": [row_in(row, found["unit"]) for row in found["rows"]]}
    measures = _measures(found)
    if len(found["arms"]) > 1:
        rows = [row for row in found["rows"] if row["version"] in found["arms"]]
        names = [row["version"] for row in rows]
        return _drawn(rows, names, "version", "all", "", measures)
    return [chart for name in found["compared"] for chart in _against_field(found, name, measures)]


def _measures(found: dict[str, Any]) -> list[Measure]:
    domains = found["domains"]
    kinds, gaps, unit = probe_kinds(found), gap_domains(found), WORDS[found["unit"]]
    return [
        (
            "loss",
            "held-out loss",
            f"held-out loss ({unit})",
            [(domain, lambda row, domain=domain: row["losses"][domain]) for domain in domains],
        ),
        (
            "change",
            "change against the version it started from",
            f"change ({unit})",
            [(domain, lambda row, domain=domain: row["change"][domain]) for domain in domains],
        ),
        (
            "probes",
            "probes answered rightly",
            "accuracy (share of probes)",
            [(kind, lambda row, kind=kind: (row["probes"] or {}).get(kind)) for kind in kinds],
        ),
        (
            "fuar",
            "FUAR",
            "FUAR (accuracy dropped / gained)",
            [
                (f"to the {words}", lambda row, base=base: (row["fuar"] or {}).get(base, {}).get("value"))
                for base, words in (("parent", "version before"), ("initial", "initial model"))
            ],
        ),
        (
            "stability-gap",
            "stability gap",
            f"rise while training ({unit})",
            [
                (domain or "mean", lambda row, domain=domain: (gap_of(row, domain) or {}).get("depth"))
                for domain in gaps
            ],
        ),
    ]


def _against_field(found: dict, version: str, measures: list[Measure]) -> list[dict[str, str]]:
    """A version's plots against the field with the most values, one of each kind per setting of the other fields."""
    rows = [row for row in found["rows"] if row["version"] == version]
    fields = list(dict.fromkeys(path for row in rows for path in row["setting"]))
    if not fields:
        return []
    values = {field: {shown(row["setting"].get(field)) for row in rows} for field in fields}
    swept = max(fields, key=lambda field: len(values[field]))
    panels: dict[str, list[dict]] = {}
    for row in rows:
        others = ", ".join(
            f"{field} = {shown(row['setting'].get(field))}" for field in fields if field != swept
        )
        panels.setdefault(others, []).append(row)
    drawn = []
    for others, members in panels.items():
        numbers = [_number(row["setting"].get(swept)) for row in members]
        x: list = [shown(row["setting"].get(swept)) for row in members]
        if None not in numbers:
            order = sorted(range(len(members)), key=lambda i: numbers[i])  # type: ignore[arg-type, return-value]
            members, x = [members[i] for i in order], [numbers[i] for i in order]
        unit = UNITS.get(swept.rpartition(".")[2])
        drawn += _drawn(members, x, f"{swept} ({unit})" if unit else swept, version, others, measures)
    return drawn


def _drawn(
    rows: list[dict], x: list, xlabel: str, whose: str, others: str, measures: list[Measure]
) -> list[dict[str, str]]:
    """The plots of some rows at their places `x`; those without a number are left out."""
    drawn = []
    wide = not isinstance(x[0], str) and x[0] > 0 and x[-1] >= 50 * x[0]
    suffix = f"-{_file_words(others)}" if others else ""
    for name, words, ylabel, curves in measures:
        lines = []
        for colour, (label, number) in enumerate(curves):
            spreads = [number(row) for row in rows]
            mean, low, high = (
                [spread and spread[part] for spread in spreads] for part in ("mean", "min", "max")
            )
            if any(value is not None for value in mean):
                lines.append(Line(label, mean, colour, low=low, high=high))
        if lines:
            ylabel = ylabel if len(lines) > 1 else f"{lines[0].label}: {ylabel}"
            title = f"{'all versions' if whose == 'all' else whose}: {words}" + (
                f", {others}" if others else ""
            )
            svg = line_chart(x, lines, ylabel, title, xlabel=xlabel, points=True, log_x=wide)
            drawn.append({"name": f"{whose}-{name}{suffix}", "title": title, "svg": svg})
    return drawn


def shown(value: Any) -> str:
    """A swept value as it would be typed."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _file_words(others: str) -> str:
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
