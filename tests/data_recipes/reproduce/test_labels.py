"""Labels of a crowded chart."""

from itertools import combinations

import pytest

from perdure.data_recipes.reproduce.labels import Box, place_labels, shared_area

FRAME = Box(0, 0, 100, 100)


def test_shared_areas():
    assert shared_area(Box(0, 0, 4, 3), Box(2, 1, 4, 4)) == 4
    assert shared_area(Box(0, 0, 4, 3), Box(4, 0, 1, 1)) == shared_area(Box(0, 0, 1, 1), Box(0, 5, 1, 1)) == 0


def test_a_label_with_room_stands_above_and_to_the_right():
    assert place_labels([(50, 50)], [(10, 6)], [Box(48, 48, 4, 4)], FRAME) == [Box(53, 53, 10, 6)]


def test_in_a_corner_it_stands_inside():
    (box,) = place_labels([(97, 97)], [(10, 6)], [], FRAME)
    assert box == Box(97 - 3 - 10, 97 - 3 - 6, 10, 6)


@pytest.mark.parametrize("step", [4.0, 6.0])
def test_labels_of_a_crowd_cover_neither_one_another_nor_points(step):
    points = [(40 + step * (i % 4), 40 + step * (i // 4)) for i in range(12)]
    obstacles = [Box(x - 1.5, y - 1.5, 3, 3) for x, y in points]
    found = place_labels(points, [(9, 5)] * 12, obstacles, FRAME)
    assert all(shared_area(one, other) == 0 for one, other in combinations(found, 2))
    assert all(shared_area(box, point) == 0 for box in found for point in obstacles)
    assert all(shared_area(box, FRAME) == 45 for box in found)
