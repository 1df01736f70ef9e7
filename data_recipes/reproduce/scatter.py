"""Points in the plane of two losses, each with its spread over seeds, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from perdure.data_recipes.reproduce.labels import Box, place_labels
from perdure.pipeline.evaluate.report.figures import Axis, chart_axes, chart_svg, series_colour

HEIGHT = 5.0
"""Of the picture, in inches; 5.2 wide."""
LABEL_SIZE, POINT_SIZE = 8.5, 5.5
"""Of letters and of points, in points: at 400 pixels of width letters are 9 pixels high."""
LEADER = 9.0
"""Distance in points from which on a thin line joins a point and its label."""


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

    @property
    def means(self) -> list[tuple[float, float]]:
        """Of each point over all seeds."""
        return [(fmean(xs), fmean(ys)) for xs, ys in self.places]


def scatter_chart(
    groups: Sequence[Points], x_axis: Axis, y_axis: Axis, title: str, linear_to: float | None = None
) -> str:
    """An inline `<svg>` of the means of all points, with bars from the lowest to the highest seed.

    Args:
        groups: The points; each group is an entry of the legend.
        x_axis: The x axis.
        y_axis: The y axis; what lies outside the ends of either is cut off.
        title: As for `line_chart`.
        linear_to: Distance from 0 up to which the y axis is linear, and logarithmic beyond; None: linear.
    """
    with chart_axes(title) as (figure, axes):
        figure.set_figheight(HEIGHT)
        for group in groups:
            colour, means = series_colour(group.colour), group.means
            for (mean_x, mean_y), (xs, ys) in zip(means, group.places, strict=True):
                axes.plot([min(xs), max(xs)], [mean_y, mean_y], color=colour, linewidth=0.8, alpha=0.5)
                axes.plot([mean_x, mean_x], [min(ys), max(ys)], color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(
                [x for x, _ in means],
                [y for _, y in means],
                color=colour,
                marker=group.marker,
                markersize=POINT_SIZE,
                linewidth=1.2,
                linestyle="-" if group.joined else "none",
                label=group.label,
            )
        if linear_to is not None:
            _bend(axes, linear_to, [y for group in groups for _, ys in group.places for y in ys])
        axes.set_xlabel(x_axis.label)
        axes.set_ylabel(y_axis.label)
        axes.set_xlim(x_axis.low, x_axis.high)
        if linear_to is None or (y_axis.low, y_axis.high) != (None, None):
            axes.set_ylim(y_axis.low, y_axis.high)
        figure.legend(loc="outside upper left", frameon=False, fontsize=8.5, ncols=3)
        _label(figure, axes, groups)
        return chart_svg(figure, title)


def _bend(axes: Any, linear_to: float, values: Sequence[float]) -> None:
    """Makes the y axis logarithmic beyond `linear_to` on both sides of 0, with round ticks that are written out."""
    axes.set_yscale("symlog", linthresh=linear_to, linscale=1.0)
    steps = [linear_to * factor * 10**power for power in range(4) for factor in (1, 2, 5)]
    ticks = [-step for step in steps] + [-linear_to / 2, 0.0, linear_to / 2] + steps
    low, high = min(values), max(values)
    axes.set_yticks([tick for tick in sorted(ticks) if low <= tick <= high])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
    axes.minorticks_off()


def _label(figure: Any, axes: Any, groups: Sequence[Points]) -> None:
    """Writes the notes where they cover neither points nor one another."""
    figure.draw_without_rendering()  # the layout, which labels leave alone from here on
    scale = 72 / figure.dpi
    frame = axes.get_window_extent()
    where = [
        tuple(value * scale for value in axes.transData.transform(mean))
        for group in groups
        for mean in group.means
    ]
    notes = [(note, group.colour) for group in groups for note in group.notes]
    wanted = [number for number, (note, _) in enumerate(notes) if note]
    half = POINT_SIZE / 2
    points = [Box(x - half, y - half, POINT_SIZE, POINT_SIZE) for x, y in where]
    texts = [axes.text(0, 0, notes[number][0], fontsize=LABEL_SIZE) for number in wanted]
    extents = [text.get_window_extent() for text in texts]
    sizes = [(extent.width * scale, LABEL_SIZE * 0.8) for extent in extents]
    for text in texts:
        text.remove()
    inside = Box(*(value * scale for value in frame.bounds))
    boxes = place_labels([where[number] for number in wanted], sizes, points, inside)
    for number, box in zip(wanted, boxes, strict=True):
        (note, colour), (x, y) = notes[number], where[number]
        across = max(box.left - x, x - box.left - box.width, 0)
        along = max(box.bottom - y, y - box.bottom - box.height, 0)
        line = {
            "arrowstyle": "-",
            "linewidth": 0.5,
            "alpha": 0.6,
            "color": series_colour(colour),
            "shrinkA": 0,
        }
        axes.annotate(
            note,
            (x, y),
            (box.left, box.bottom),
            xycoords="figure points",
            textcoords="figure points",
            fontsize=LABEL_SIZE,
            color=series_colour(colour),
            arrowprops=line if (across**2 + along**2) ** 0.5 > LEADER else None,
        ).set_in_layout(False)
