"""Where the labels of a crowded chart stand, so that none lies on another or on a point."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""From a point to its label, the first that is free is taken."""
DISTANCES = (3.0, 8.0, 14.0, 21.0, 29.0)
"""Between a point and its label, nearest first."""


class Box(NamedTuple):
    """A rectangle.

    Attributes:
        left: Lowest x.
        bottom: Lowest y.
        width: Above 0.
        height: Above 0.
    """

    left: float
    bottom: float
    width: float
    height: float


def shared_area(one: Box, other: Box) -> float:
    """Area that two rectangles share."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.bottom + one.height, other.bottom + other.height) - max(one.bottom, other.bottom)
    return max(width, 0.0) * max(height, 0.0)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    frame: Box,
) -> list[Box]:
    """Puts a label near each point: the nearest free place, else the one that covers least.

    Args:
        points: x and y of each labelled point.
        sizes: Width and height of each label.
        obstacles: What labels should not cover, such as all points.
        frame: Labels should lie inside.

    Returns:
        Each label's rectangle.
    """
    placed: list[Box] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        best, least = None, float("inf")
        for distance, (right, up) in product(DISTANCES, DIRECTIONS):
            left = x + distance * right - (width if right < 0 else 0 if right else width / 2)
            bottom = y + distance * up - (height if up < 0 else 0 if up else height / 2)
            box = Box(left, bottom, width, height)
            covered = sum(shared_area(box, other) for other in (*placed, *obstacles))
            covered += width * height - shared_area(box, frame)
            if covered < least - 1e-9:
                best, least = box, covered
        assert best is not None
        placed.append(best)
    return placed
