"""The optimizer's states as they are stored."""

from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.train.optimizer import rectangles


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_rectangles_hold_a_run_of_elements_in_order(data, shape):
    begin = data.draw(st.integers(0, prod(shape)))
    end = data.draw(st.integers(begin, prod(shape)))
    whole, found = torch.arange(prod(shape)).view(shape), []
    pieces = list(rectangles(begin, end, tuple(shape)))
    for offset, size in pieces:
        found += whole[tuple(slice(o, o + s) for o, s in zip(offset, size, strict=True))].flatten().tolist()
    assert found == list(range(begin, end))
    assert len(pieces) <= 2 * len(shape) - 1


def test_nothing_is_in_no_rectangle():
    assert list(rectangles(7, 3, (4, 4))) == []
