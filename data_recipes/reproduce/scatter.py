"""Points in the plane of two losses, each with its spread over seeds, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from perdure.pipeline.evaluate.report.figures import Axis, chart_axes, chart_svg, series_colour

HEIGHT = 4.6
"""Of the picture, in inches; 5.2 wide."""


@dataclass(frozen=True)
class Points:
    """Points that share a name in the legend.

    Attributes:
        label: Their name.
        places: Per point the x values of all seeds, and their y values.
        notes: A short text beside each point; empty for none.
        colour: Number of a series colour.
        marker: Matplotlib's letter of their shape.
        joined: Whether a line joins them in the given order.
    """

    label: str
    places: Sequence[tuple[Sequence[float], Sequence[float]]]
    notes: Sequence[str]
    colour: int
    marker: str = "o"
    joined: bool = False


def scatter_chart(groups: Sequence[Points], x_axis: Axis, y_axis: Axis, title: str) -> str:
    """An inline `<svg>` of the means of all points, with bars from the lowest to the highest seed.

    Args:
        groups: The points; each group is an entry of the legend.
        x_axis: The x axis.
        y_axis: The y axis; what lies outside the ends of either is cut off.
        title: As for `line_chart`.
    """
    with chart_axes(title) as (figure, axes):
        figure.set_figheight(HEIGHT)
        for group in groups:
            colour = series_colour(group.colour)
            x, y = ([fmean(place[axis]) for place in group.places] for axis in (0, 1))
            for mean_x, mean_y, (xs, ys) in zip(x, y, group.places, strict=True):
                axes.plot([min(xs), max(xs)], [mean_y, mean_y], color=colour, linewidth=0.8, alpha=0.5)
                axes.plot([mean_x, mean_x], [min(ys), max(ys)], color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(
                x,
                y,
                color=colour,
                marker=group.marker,
                markersize=5.5,
                linewidth=1.2,
                linestyle="-" if group.joined else "none",
                label=group.label,
            )
            for mean_x, mean_y, note in zip(x, y, group.notes, strict=True):
                axes.annotate(
                    note,
                    (mean_x, mean_y),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=7.5,
                    color=colour,
                    annotation_clip=True,
                )
        axes.set_xlabel(x_axis.label)
        axes.set_ylabel(y_axis.label)
        axes.set_xlim(x_axis.low, x_axis.high)
        axes.set_ylim(y_axis.low, y_axis.high)
        figure.legend(loc="outside upper left", frameon=False, fontsize=8.5, ncols=4)
        return chart_svg(figure, title)
