"""Points in the plane of two losses."""

import re
from itertools import combinations

from perdure.data_recipes.reproduce.scatter import Points, scatter_chart
from perdure.pipeline.evaluate.report.figures import Axis, standalone


def test_points_of_all_groups_are_drawn_with_their_names_and_bars():
    groups = [
        Points("merge", [([1.0, 1.2], [3.0, 3.2]), ([2.0, 2.0], [2.0, 2.0])], ["10", ""], 0, joined=True),
        Points("replay", [([1.5], [2.5])], ["5"], 1, "s"),
    ]
    svg = scatter_chart(groups, Axis("old loss"), Axis("new loss"), "frontier")
    assert svg == scatter_chart(groups, Axis("old loss"), Axis("new loss"), "frontier")
    for text in ("merge", "replay", "old loss", "new loss", ">10<", ">5<"):
        assert text in svg
    assert "#0203" not in svg and "var(--series-0)" in svg and "var(--series-1)" in svg
    # Without seeds that differ there is nothing for a bar to span.
    one = scatter_chart([groups[1]], Axis("old loss"), Axis("new loss"), "frontier")
    assert svg.count("<path") > one.count("<path")
    assert standalone(svg).startswith("<svg")


def test_the_line_of_merges_goes_through_the_means_of_the_seeds():
    places = [([1.0, 3.0], [4.0, 6.0]), ([2.0, 6.0], [1.0, 3.0]), ([8.0, 8.0], [0.0, 0.0])]
    svg = scatter_chart([Points("line", places, [""] * 3, 0, joined=True)], Axis("x"), Axis("y"), "t")
    joined = [path for path in re.findall(r'd="([^"]*)"', svg) if len(re.findall("[ML]", path)) == 3]
    points = [[float(number) for number in re.findall(r"-?[\d.]+", path)] for path in joined]
    found = max((path for path in points if len(path) == 6), key=lambda path: path[4] - path[0])
    # The legend's is shorter. Means: (2, 5), (4, 2), (8, 0); on a page y grows downwards.
    assert abs((found[2] - found[0]) / (found[4] - found[2]) - 0.5) < 1e-3
    assert abs((found[3] - found[1]) / (found[5] - found[3]) - 1.5) < 1e-3


def test_notes_of_points_that_lie_close_do_not_overlap_and_axes_may_be_bent():
    places = [([0.1 * (i % 3), 0.1 * (i % 3) + 0.01], [0.02 * i, 0.02 * i]) for i in range(9)] + [
        ([5.0], [3.0])
    ]
    notes = [f"n{i}" for i in range(10)]
    groups = [Points("crowd", places, notes, 0)]
    svg = scatter_chart(groups, Axis("x"), Axis("y"), "t", linear_to=0.1)
    found = {
        text: (float(x), float(y))
        for x, y, text in re.findall(
            r'<text[^>]*?(?:x="|translate\()([\d.]+)[" ][^>]*?([\d.]+)[")][^>]*>(n\d)<', svg
        )
    }
    assert sorted(found) == notes
    for (x1, y1), (x2, y2) in combinations(found.values(), 2):
        assert abs(x1 - x2) > 9 or abs(y1 - y2) > 6.5
    for tick in ("0.05", "0.1", "0.2", "1", "2"):
        assert f">{tick}<" in svg
