"""A sweep as one HTML file: its tables, and its plots."""

from markupsafe import Markup, escape

from perdure.pipeline.evaluate.report.html import render
from perdure.pipeline.evaluate.units import UNIT_NAMES
from perdure.pipeline.run.sweep.charts import Chart, format_value
from perdure.pipeline.run.sweep.gather import row_in
from perdure.pipeline.run.sweep.schema import SweepResult
from perdure.pipeline.run.sweep.table import (
    format_fuar,
    format_recovery,
    gap_domains,
    gap_of,
    probe_kinds,
    units,
)


def render_sweep(found: SweepResult, charts: list[Chart]) -> str:
    """Renders the page.

    Args:
        found: What `perdure.pipeline.run.sweep.gather.gather` returned.
        charts: Its plots, see `perdure.pipeline.run.sweep.charts.charts`.

    Returns:
        HTML; equal arguments give equal bytes.
    """
    unit, other = units(found)
    fields = list(dict.fromkeys(path for row in found["rows"] for path in row["setting"]))
    gaps = gap_domains(found)
    return render(
        "perdure.pipeline.run.sweep",
        "sweep.html",
        {"shown": format_value, "recovery": format_recovery, "fuar": format_fuar},
        found=found,
        fields=fields,
        name_heads=[*map(_breakable, fields), "version"],
        charts=charts,
        unit=UNIT_NAMES[unit],
        other_unit=UNIT_NAMES[other],
        rows=[(row_in(row, unit), row_in(row, other)) for row in found["rows"]],
        version_in=lambda version: row_in(version, unit),
        kinds=probe_kinds(found),
        gaps=gaps,
        gap_heads=[head for domain in gaps for head in (domain or "mean of all", "back after")],
        gap_of=gap_of,
        whole=sum(run["status"] == "whole" for run in found["runs"]),
    )


def _breakable(path: str) -> str:
    """A dotted path that a browser may break before its parts."""
    return Markup(".<wbr>").join(map(escape, path.split(".")))
