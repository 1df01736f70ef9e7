"""Held-out pairs: what of them counts, and how often the preferred answer is the likelier one."""

import numpy as np
import pytest

from perdure.pipeline.evaluate.infill import Row
from perdure.pipeline.evaluate.preferences import win_rate


def test_answers_are_compared_by_byte_so_that_length_decides_nothing():
    long, short = Row([1] * 30, 20, 40), Row([1] * 12, 2, 4)
    losses = np.array(
        [20.0, 4.0, 4.0, 20.0, 20.0, 2.0]
    )  # half a nat a byte, and one; one, and half; two equal ones
    found = win_rate([(long, short), (short, long), (long, short)], losses, seed=1)
    assert (found["pairs"], found["win_rate"]) == (3, pytest.approx(1 / 3))
    assert found["margin"] == pytest.approx((4 - 20 + 20 - 4 + 2 - 20) / 3)
    assert found["interval"] == [0, 1]
    assert win_rate([(long, short)], losses[:2], seed=1)["interval"] is None
