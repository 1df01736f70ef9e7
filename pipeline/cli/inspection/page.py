"""The inspection of data as one HTML file: opens offline, prints, follows light and dark."""

from collections.abc import Callable

from perdure.pipeline.cli.inspection.schema import Inspection
from perdure.pipeline.data.summaries import feature_lines
from perdure.pipeline.evaluate.report.figures import SERIES_COLOURS
from perdure.pipeline.evaluate.report.html import render
from perdure.pipeline.evaluate.report.page import printable

STRONGEST = 60
"""Percent of colour behind the strongest token; more would hurt the contrast of its text."""
LEFT_COLOUR = 2
"""Colour number of what is left; dropped parts have other ones."""
SHADED = 4.0
"""Loss in nats at which a token has half of `STRONGEST`."""
SHADED_EXCESS = 1.0
"""Excess loss in nats, likewise."""


def render_inspection(found: Inspection) -> str:
    """Renders the page; equal arguments give equal bytes.

    Args:
        found: What `perdure.pipeline.cli.inspection.gather` returned.
    """
    filters: dict[str, Callable[[str], str]] = {
        "printable": printable,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    return render(
        "perdure.pipeline.cli.inspection",
        "inspection.html",
        filters,
        found=found,
        shade=shade,
        halves=(SHADED, SHADED_EXCESS),
        flow=_flow,
        feature_lines=feature_lines,
        below=lambda quantiles: [f"{name} below" for name in quantiles],
        perplexity="{:,.4g}".format,
    )


def shade(loss: float | None, half: float = SHADED) -> str:
    """CSS background of a token by its loss or excess loss in nats; negative excess has another colour."""
    if loss is None:
        return "transparent"
    colour, size = "excess" if loss >= 0 else "better", abs(loss)
    return f"color-mix(in srgb, var(--{colour}) {STRONGEST * size / (size + half):.0f}%, transparent)"


def _flow(counts: dict, unit: str) -> list[dict]:
    """Shares of all documents (or words): what each step dropped, and what was left."""
    whole = counts[unit]["in"] or 1
    parts = [
        {"name": step["step"], "count": sum(entry[unit] for entry in step["dropped"].values())}
        for step in counts["steps"]
    ]
    left = {"name": "left", "count": counts[unit]["out"]}
    shown = [part | {"share": part["count"] / whole} for part in [left, *parts] if part["count"]]
    others = [colour for colour in range(SERIES_COLOURS) if colour != LEFT_COLOUR]
    return [
        part | {"colour": others[(number - 1) % len(others)] if number else LEFT_COLOUR}
        for number, part in enumerate(shown)
    ]
