"""What K1 and K2 read from memory, by a model of L2 that takes the product's own order of programs."""

from itertools import chain

import pytest
from gpu.traffic import bytes_read, tiles
from support import on_rank

GB = 1e9


def large(group: int | None = None) -> dict[str, float]:
    """Modelled reads of 8,192 tokens of width 4096 and 128,256 columns, in GB, by kernel: at all tokens' gradients too."""
    launches = on_rank("large_launches", group, script="gpu/pretended_ranks.py")[0]
    found = {}
    for kernel, programs in (("statistics_kernel", 1), ("gradient_kernel", 2)):
        own = [launch for launch in launches if launch["kernel"] == kernel]
        found[kernel] = bytes_read(own, programs) / GB
    return found


@pytest.mark.slow
def test_the_weight_is_read_from_memory_about_once_a_group_of_rows():
    """Rows and weight are 1.1 GB together."""
    found = large()
    print(found)
    assert found["statistics_kernel"] < 6 and found["gradient_kernel"] < 6


@pytest.mark.slow
def test_without_groups_the_weight_is_read_over_and_over():
    """The model tells the orders apart: 64 blocks of rows side by side do not fit."""
    found = large(group=1 << 20)
    print(found)
    assert found["statistics_kernel"] > 15 and found["gradient_kernel"] > 15


@pytest.mark.slow
def test_the_models_tiles_are_those_that_programs_load():
    launches, loaded = on_rank("loaded_tiles", script="gpu/pretended_ranks.py")[0]
    expected = list(chain.from_iterable(chain.from_iterable(map(tiles, launches))))
    assert {launch["kernel"] for launch in launches} == {"statistics_kernel", "gradient_kernel"}
    assert len({row for row, _ in expected}) == 5 and len({column for _, column in expected}) > 4
    assert [tuple(place) for place in loaded] == expected
