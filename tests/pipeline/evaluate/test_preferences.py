"""Held-out pairs: what of them counts, and how often the preferred answer is the likelier one."""

import numpy as np
import pytest

from perdure.pipeline.evaluate.infill import Row
from perdure.pipeline.evaluate.preferences import against_reference, compare_answers


def test_answers_are_compared_by_byte_so_that_length_decides_nothing():
    long, short = Row([1] * 30, 20, 40), Row([1] * 12, 2, 4)
    losses = np.array(
        [20.0, 4.0, 4.0, 20.0, 20.0, 2.0]
    )  # half a nat a byte, and one; one, and half; two equal ones
    found = compare_answers([(long, short), (short, long), (long, short)], losses, seed=1)
    assert (found["pairs"], found["win_rate"]) == (3, pytest.approx(1 / 3))
    assert found["margin"] == pytest.approx((4 - 20 + 20 - 4 + 2 - 20) / 3)
    assert found["interval"] == [0, 1]
    assert compare_answers([(long, short)], losses[:2], seed=1)["interval"] is None


def test_what_was_gained_since_the_reference_is_counted_pair_by_pair():
    """Whatever the lengths: the reference itself has half."""
    rows = [
        {"pairs": 4, "margins": margins}
        for margins in ([1.0, -2, 3, 0], [2.0, -3, 4, 0.0], [2.0, -1, 4, 0.5])
    ]
    found = against_reference([None, *rows], 1)
    assert [row and row["accuracy"] for row in found] == [None, 0.5, 0.625, 1.0]
    assert "margins" not in found[1]
    assert [row and row["accuracy"] for row in against_reference([*rows], None)] == [None] * 3
