"""How much the tests try: a sample, or with PERDURE_SOAK set all of it (`make soak`)."""

import os
from collections.abc import Iterable
from itertools import cycle, islice, product
from typing import Any

SOAK = bool(os.environ.get("PERDURE_SOAK"))


def often(few: Any, many: Any) -> Any:
    """`few` in every run of the tests, `many` in a soak."""
    return many if SOAK else few


def sampled(*axes: Iterable) -> list[tuple]:
    """Combinations of values, to parametrize a test with: as many as the longest axis has, each value at least once; in a
    soak all of them."""
    values = [list(axis) for axis in axes]
    if SOAK:
        return list(product(*values))
    longest = max(map(len, values))
    return list(zip(*(islice(cycle(axis), longest) for axis in values), strict=True))
