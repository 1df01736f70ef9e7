"""A sweep as one HTML file: the table, and a plot of every compared version against every swept field."""

import json
from typing import Any

from perdure.pipeline.evaluate.figures import Line, line_chart
from perdure.pipeline.evaluate.words import signed, tokens_words

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


def render_sweep(found: dict[str, Any]) -> str:
    """Renders the page.

    Args:
        found: What `perdure.pipeline.sweep.results.gather` returned.

    Returns:
        HTML; equal arguments give equal bytes.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = ("perdure.pipeline.sweep", "perdure.pipeline.evaluate")
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": signed, "tokens": tokens_words, "shown": shown}
    return environment.get_template("sweep.html").render(
        found=found,
        fields=list(dict.fromkeys(path for row in found["rows"] for path in row["setting"])),
        charts=[chart for version in found["compared"] for chart in _charts(found, version)],
        whole=sum(run["status"] == "whole" for run in found["runs"]),
    )


def shown(value: Any) -> str:
    """A swept value as it would be typed."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _charts(found: dict, version: str) -> list[dict]:
    """Loss and change against the field with the most values, one pair of charts per setting of the other fields."""
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
    charts = []
    for others, members in panels.items():
        for key, label in (
            ("losses", "held-out loss (nats per token)"),
            ("change", "change (nats per token)"),
        ):
            what = "held-out loss" if key == "losses" else "change against the version it started from"
            title = f"{version}: {what}" + (f", {others}" if others else "")
            charts.append(
                {"title": title, "svg": _chart(members, swept, found["domains"], key, label, title)}
            )
    return charts


def _chart(rows: list[dict], swept: str, domains: list[str], key: str, label: str, title: str) -> str:
    numbers = [_number(row["setting"].get(swept)) for row in rows]
    x: list = [shown(row["setting"].get(swept)) for row in rows]
    if None not in numbers:
        order = sorted(range(len(rows)), key=lambda i: numbers[i])  # type: ignore[arg-type, return-value]
        rows, x = [rows[i] for i in order], [numbers[i] for i in order]
    lines = []
    for colour, domain in enumerate(domains):
        spreads = [row[key][domain] for row in rows]
        parts = {part: [spread and spread[part] for spread in spreads] for part in ("mean", "min", "max")}
        if any(value is not None for value in parts["mean"]):
            lines.append(Line(domain, parts["mean"], colour, low=parts["min"], high=parts["max"]))
    wide = None not in numbers and x[0] > 0 and x[-1] >= 50 * x[0]
    unit = UNITS.get(swept.rpartition(".")[2])
    xlabel = f"{swept} ({unit})" if unit else swept
    return line_chart(x, lines, label, title, xlabel=xlabel, points=True, log_x=wide)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
