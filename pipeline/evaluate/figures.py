"""Line charts as small SVG that follows the page's light or dark colours.

Matplotlib draws with placeholder colours; each becomes a CSS variable of the page, so one picture serves light,
dark and print.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SERIES_COLOURS = 8
"""Number of distinguishable line colours: `--series-0` ... `--series-7` in `page.css`."""

_INK, _GRID = "#010101", "#010102"


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: Its name in the legend.
        values: One per x; None leaves a gap.
        colour: Number of a series colour.
        dashed: Draw it dashed.
        ink: Draw it in the text's colour instead, thin.
        low: Lower edge of a band around it, one per x; None leaves a gap.
        high: Upper edge.
    """

    label: str
    values: Sequence[float | None]
    colour: int = 0
    dashed: bool = False
    ink: bool = False
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None


TOKENS = "tokens consumed by this version"
"""The x axis of training curves."""


def line_chart(
    x: Sequence[float] | Sequence[str],
    lines: Sequence[Line],
    ylabel: str,
    title: str,
    low: float | None = None,
    high: float | None = None,
    *,
    xlabel: str = TOKENS,
    marks: Sequence[tuple[float, str]] = (),
    points: bool = False,
    log_x: bool = False,
) -> str:
    """An inline `<svg>` of curves.

    Args:
        x: Numbers, or names that stand at equal distances.
        lines: The curves; a legend is drawn if there are several.
        ylabel: Name and unit of the y axis.
        title: Read out by screen readers; also makes the ids inside the picture unique.
        low: Lower end of the y axis; default: from the values.
        high: Upper end of the y axis; default: from the values.
        xlabel: Name and unit of the x axis.
        marks: Places on the x axis with what happens there, drawn as thin lines across.
        points: Mark every value.
        log_x: Make the x axis logarithmic.

    Returns:
        The same text for the same arguments; no outside reference.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.size": 9,
        "axes.edgecolor": _GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.6,
        "xtick.color": _GRID,
        "ytick.color": _GRID,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            colour = _INK if line.ink else f"#0203{line.colour % SERIES_COLOURS:02x}"
            if line.low is not None and line.high is not None:
                axes.fill_between(x, _gaps(line.low), _gaps(line.high), color=colour, alpha=0.2, linewidth=0)
            axes.plot(
                x,
                _gaps(line.values),
                color=colour,
                linewidth=0.9 if line.ink else 1.6,
                linestyle="--" if line.dashed else "-",
                marker="o" if points or len(x) == 1 else None,
                markersize=4,
                label=line.label,
            )
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_ylim(low, high)
        for place, text in marks:
            axes.axvline(place, color=_INK, linewidth=0.7, linestyle=":")
            axes.annotate(
                text,
                (place, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, -2),
                textcoords="offset points",
                rotation=90,
                va="top",
                fontsize=7,
            )
        if log_x:
            axes.set_xscale("log")
        if xlabel == TOKENS:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        elif x and not isinstance(x[0], str):
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if len(lines) > 1:
            figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=4)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), title)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _inline(document: str, title: str) -> str:
    """Keeps what a browser needs inside HTML: no prolog, fixed size, font or ids that every chart repeats."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)
    referred = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    head = f'<svg role="img" aria-label="{escape(title)}"'
    svg = re.sub(r'<svg( [^>]*?)? width="[^"]*" height="[^"]*"', lambda match: head + (match[1] or ""), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--rule)")
    return re.sub(r"#0203(0\d)", lambda match: f"var(--series-{int(match[1])})", svg).strip()
