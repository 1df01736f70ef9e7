"""What K1 and K2 read from memory, by a model of L2 that takes the product's own order of programs."""

from itertools import chain

import pytest
from gpu.traffic import CACHE, bytes_read, tiles
from support import on_rank


def large(group: int | None, *caches: int) -> list[dict[str, float]]:
    """Modelled reads of 8,192 tokens of width 4096 and 128,256 columns, in GB, by kernel; K2 of all tokens."""
    launches = on_rank("large_launches", group, script="gpu/kernel_ranks.py")[0]
    found = []
    for cache in caches:
        by_kernel = {}
        for kernel, programs in (("statistics_kernel", 1), ("gradient_kernel", 2)):
            own = [launch for launch in launches if launch["kernel"] == kernel]
            by_kernel[kernel] = round(bytes_read(own, programs, cache) / 1e9, 2)
        print(f"L2 of {cache >> 20} MB, groups of {group or 'the product'}: {by_kernel} GB")
        found.append(by_kernel)
    return found


@pytest.mark.slow
def test_the_weight_is_read_from_memory_about_once_a_group_of_rows():
    """Rows and weight are 1.1 GB together; in half the cache, rows do not outlast the columns that are read between."""
    whole, half = large(None, CACHE, CACHE // 2)
    assert max(whole.values()) < 6 and max(half.values()) < 11


@pytest.mark.slow
def test_without_groups_the_weight_is_read_over_and_over():
    """The model tells the orders apart: 64 blocks of rows side by side do not fit."""
    (found,) = large(1 << 20, CACHE)
    assert min(found.values()) > 12


@pytest.mark.slow
def test_the_models_tiles_are_those_that_programs_load():
    launches, loaded = on_rank("loaded_tiles", script="gpu/kernel_ranks.py")[0]
    expected = list(chain.from_iterable(chain.from_iterable(map(tiles, launches))))
    assert {launch["kernel"] for launch in launches} == {"statistics_kernel", "gradient_kernel"}
    assert len({row for row, _ in expected}) == 5 and len({column for _, column in expected}) > 4
    assert [tuple(place) for place in loaded] == expected
