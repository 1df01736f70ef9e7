"""Line charts and histograms as inline SVG in the page's light or dark colours.

Matplotlib draws with placeholder colours; each becomes a CSS variable of the page, so one picture serves light,
dark and print.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import pairwise
from typing import Any

SERIES_COLOURS = 8
"""Number of distinguishable line colours: `--series-0` ... `--series-7` in `page.css`."""

ROW_LETTERS = 64
"""Names on the x axis with more letters than this in all are written at an angle."""

FONTS = "system-ui, 'Segoe UI', 'Helvetica Neue', 'Liberation Sans', sans-serif"

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


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        label: Its name and unit.
        low: Its lower end; None: from the values.
        high: Its upper end; None: from the values.
        log: Whether it is logarithmic.
    """

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False


TOKENS = Axis("tokens consumed by this version")
"""The x axis of training curves."""


def line_chart(
    x: Sequence[float] | Sequence[str],
    lines: Sequence[Line],
    y_axis: Axis,
    title: str,
    x_axis: Axis = TOKENS,
    *,
    marks: Sequence[tuple[float, str]] = (),
    points: bool = False,
) -> str:
    """An inline `<svg>` of curves.

    Args:
        x: Numbers, or names that stand at equal distances.
        lines: The curves; a legend is drawn if there are several.
        y_axis: The y axis.
        title: Read out by screen readers; also makes the ids inside the picture unique.
        x_axis: The x axis.
        marks: Places on the x axis with what happens there, drawn as thin lines across.
        points: Mark every value.

    Returns:
        The same text for the same arguments; no outside reference.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter

    with chart_axes(title) as (figure, axes):
        for line in lines:
            colour = _INK if line.ink else series_colour(line.colour)
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
        axes.set_xlabel(x_axis.label)
        axes.set_ylabel(y_axis.label)
        axes.set_ylim(y_axis.low, y_axis.high)
        names = [place for place in x if isinstance(place, str)]
        numbers = [place for place in x if not isinstance(place, str)]
        _draw(axes, marks, crowded=0.03 * (numbers[-1] - numbers[0]) if marks else 0)
        if x_axis.log:
            axes.set_xscale("log")
        if len(names) * max(map(len, names), default=0) > ROW_LETTERS:
            figure.set_figheight(figure.get_figheight() + 0.04 * max(map(len, names)))
            for name in axes.get_xticklabels():
                name.set(rotation=30, ha="right", rotation_mode="anchor")
        if x_axis == TOKENS:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        elif numbers:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if len(lines) > 1:
            figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=4)
        return chart_svg(figure, title)


def standalone(svg: str) -> str:
    """An inline chart as an SVG file of its own, in the reader's light or dark colours.

    The light colours are plain attributes, so that programs that know no style sheets draw it, too.

    Args:
        svg: From `line_chart` or `histogram`.

    Returns:
        An SVG document.
    """
    css = (files("perdure.pipeline.evaluate.report") / "page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"(--[\w-]+): (#\w+)", block)) for block in css.split(":root")[1:3])
    used = sorted({"--paper", *re.findall(r"var\((--[\w-]+)\)", svg)})
    rules = "\n".join(
        f'[style*="{kind}: {light[name]}"] {{ {kind}: {dark[name]} !important }}'
        for name in used
        for kind in ("fill", "stroke")
    )
    style = f"text {{ font-family: {FONTS} }}\n@media (prefers-color-scheme: dark) {{\n{rules}\n}}"
    width, height = (float(size) for size in re.findall(r'viewBox="0 0 (\S+) ([^"]+)"', svg)[0])
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = svg.replace("<svg", f'<svg {namespaces} width="{2 * width:g}" height="{2 * height:g}"', 1)
    ground = f'<rect width="100%" height="100%" style="fill: {light["--paper"]}"/>'
    head, rest = svg.split(">", 1)
    rest = re.sub(r"var\((--[\w-]+)\)", lambda match: light[match[1]], rest)
    return f"{head}>\n<style>\n{style}\n</style>\n{ground}{rest}\n"


def histogram(
    edges: Sequence[float],
    parts: Sequence[tuple[str, Sequence[int], int]],
    xlabel: str,
    ylabel: str,
    title: str,
) -> str:
    """An inline `<svg>` of counts by bin, stacked.

    Args:
        edges: Borders of the bins, one more than bins.
        parts: From below: name, count of every bin, number of a series colour.
        xlabel: Name and unit of the x axis.
        ylabel: Name and unit of the y axis.
        title: As for `line_chart`.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter

    with chart_axes(title) as (figure, axes):
        below = [0] * (len(edges) - 1)
        for label, counts, colour in parts:
            width = [high - low for low, high in pairwise(edges)]
            axes.bar(
                edges[:-1],
                counts,
                width,
                below,
                align="edge",
                color=series_colour(colour),
                label=label,
            )
            below = [under + count for under, count in zip(below, counts)]
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=4)
        return chart_svg(figure, title)


def series_colour(number: int) -> str:
    """The placeholder of a series' colour."""
    return f"#0203{number % SERIES_COLOURS:02x}"


@contextmanager
def chart_axes(title: str) -> Iterator[tuple[Any, Any]]:
    """An empty chart to draw in: matplotlib's figure and axes, in placeholder colours; see `series_colour`."""
    import matplotlib
    from matplotlib.figure import Figure

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
        yield figure, figure.add_subplot()


def chart_svg(figure: Any, title: str) -> str:
    """The inline `<svg>` of a figure of `chart_axes`, in the page's colours; the title as for `line_chart`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # Of values about 1e-30, which its layout takes for 0: such a chart is drawn without it.
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), title)


def _draw(axes: Any, marks: Sequence[tuple[float, str]], crowded: float) -> None:
    """Draws vertical lines with labels; of labels that would overlap, the last one stays."""
    for number, (place, text) in enumerate(marks):
        if number or place:
            axes.axvline(place, color=_INK, linewidth=0.7, linestyle=":")
        if number + 1 == len(marks) or marks[number + 1][0] - place > crowded:
            axes.annotate(
                text,
                (place, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, -2),
                textcoords="offset points",
                rotation=90,
                va="top",
                fontsize=8,
            )


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _inline(document: str, title: str) -> str:
    """Strips an SVG document down to what inline SVG needs, and puts in the page's colours."""
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
