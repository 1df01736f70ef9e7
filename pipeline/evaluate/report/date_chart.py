"""The chart of accuracy on dated probes, with the cut-off of every version as a line across."""

from perdure.pipeline.core.records import Cutoff
from perdure.pipeline.evaluate.dated import by_date
from perdure.pipeline.evaluate.report.figures import chart_axes, chart_svg, series_colour
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.plan.cutoffs import days_of
from perdure.pipeline.recipe.periods import period

HEIGHT = 3.4
"""Inches of the chart; the lines of its legend come on top."""
MOST_TICKS = 8
"""Dates that are written below the axis, about."""
BEYOND = 0.04
"""Room beside the outermost date, as a share of the axis."""
LEGEND_LETTERS = 60
"""Letters of a line of the legend, about."""


def date_charts(report: Report, shown: list[str]) -> dict[str, str]:
    """By file of probes with several dates, a chart of accuracy by date; none without cut-offs.

    Args:
        report: What `report.json` holds.
        shown: Names of the versions that are drawn.
    """
    probes = report.get("probes")
    if probes is None or not any(probes.get("split") or ()):
        return {}
    versions = {entry["id"]: entry.get("cutoff") for entry in report["versions"]}
    rows: list[tuple[str, Cutoff | None, dict]] = [("initial model", None, probes["scores"][0])]
    rows += [
        (name, cutoff, scores)
        for (name, cutoff), scores in zip(versions.items(), probes["scores"][1:])
        if name in shown
    ]
    found = {}
    for file in probes["files"]:
        lines = [
            (name, cutoff, by_date(scores[file]))
            for name, cutoff, scores in rows
            if scores and file in scores
        ]
        if any(len(accuracies) > 1 for _, _, accuracies in lines):
            found[file] = _chart(f"{file}: accuracy by date", lines)
    return found


def _chart(title: str, lines: list[tuple[str, Cutoff | None, dict[str, tuple[float, int]]]]) -> str:
    """Accuracy by date of some models, and their cut-offs."""
    from matplotlib.ticker import FuncFormatter

    with chart_axes(title) as (figure, axes):
        letters = sum(len(name) + 6 for name, _, _ in lines)
        figure.set_figheight(HEIGHT + 0.2 * (letters // LEGEND_LETTERS))
        marks: dict[int, list[int]] = {}
        for number, (name, cutoff, accuracies) in enumerate(lines):
            days = [_place(text) for text in accuracies]
            values = [accuracy for accuracy, _ in accuracies.values()]
            initial = number == 0 and name == "initial model"
            axes.plot(
                days,
                values,
                color=series_colour(7 if initial else number - 1),
                linewidth=1.6,
                linestyle="--" if initial else "-",
                marker="o",
                markersize=4,
                label=name,
            )
            if cutoff is not None and (known := days_of(cutoff)) is not None:
                marks.setdefault(known.last.toordinal(), []).append(number)
        for place, numbers in sorted(marks.items()):
            names = ", ".join(lines[number][0] for number in numbers)
            axes.axvline(place, color=series_colour(numbers[0] - 1), linewidth=1.1, linestyle=":")
            axes.annotate(
                f"cut-off of {names}" if place == min(marks) else names,
                (place, 0),
                xycoords=("data", "axes fraction"),
                xytext=(2, 3),
                textcoords="offset points",
                rotation=90,
                va="bottom",
                fontsize=8,
            )
        dates = sorted({text for _, _, accuracies in lines for text in accuracies})
        axes.set_xticks(*_ticks(dates))
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
        axes.margins(x=BEYOND)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_xlabel("when the fact became true")
        axes.set_ylabel("share answered rightly")
        figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=4)
        return chart_svg(figure, title)


def _place(text: str) -> int:
    """Where a date stands on the axis: at its end, so that it lies before a cut-off by which it is known."""
    days = period(text)
    assert days is not None
    return days.last.toordinal()


def _ticks(dates: list[str]) -> tuple[list[int], list[str]]:
    """Places and names of some of the dates, evenly chosen."""
    every = -(-len(dates) // MOST_TICKS)
    chosen = dates[::every]
    return [_place(text) for text in chosen], chosen
