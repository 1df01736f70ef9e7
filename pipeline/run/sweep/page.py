"""A sweep as one HTML file: its tables, and its plots."""

from typing import Any

from perdure.pipeline.core.console import tokens_words
from perdure.pipeline.core.pages import render
from perdure.pipeline.evaluate.report.words import signed
from perdure.pipeline.evaluate.units import WORDS
from perdure.pipeline.run.sweep.charts import shown
from perdure.pipeline.run.sweep.gather import row_in
from perdure.pipeline.run.sweep.table import (
    fuar_words,
    gap_domains,
    gap_of,
    probe_kinds,
    recovery_words,
    units,
)


def render_sweep(found: dict[str, Any], charts: list[dict[str, str]]) -> str:
    """Renders the page.

    Args:
        found: What `perdure.pipeline.run.sweep.gather.gather` returned.
        charts: Its plots, see `perdure.pipeline.run.sweep.charts.charts`.

    Returns:
        HTML; equal arguments give equal bytes.
    """
    filters = {"signed": signed, "tokens": tokens_words, "shown": shown}
    filters |= {"recovery": recovery_words, "fuar": fuar_words}
    unit, other = units(found)
    return render(
        "sweep.html",
        filters,
        found=found,
        fields=list(dict.fromkeys(path for row in found["rows"] for path in row["setting"])),
        charts=charts,
        unit=WORDS[unit],
        other_unit=WORDS[other],
        rows=[(row_in(row, unit), row_in(row, other)) for row in found["rows"]],
        version_in=lambda version: row_in(version, unit),
        kinds=probe_kinds(found),
        gaps=gap_domains(found),
        gap_of=gap_of,
        whole=sum(run["status"] == "whole" for run in found["runs"]),
    )
