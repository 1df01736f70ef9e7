"""How much of the loss's operands a launch reads from memory, by a model of the L2 cache: `test_traffic.py -s` prints it.

The order is the product's own: grids and sizes are those of recorded launches, the place of a program is `program_place`, and
`test_traffic.py` compares the tiles of a program with what the interpreter loads. The cache is modelled: programs run in
waves, side by side through the depth, and what was used longest ago is left out. Nothing but reads of rows and weight count.
"""

import importlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from perdure.kernels.triton_kernels import program_place

MULTIPROCESSORS = 132
"""Of an H100 (SXM)."""
CACHE = 50 << 20
"""Bytes of L2 of an H100: two halves of 25 MB, and what both halves' multiprocessors read may stand in both."""
DEPTH = 256
"""Numbers of a row of an operand that are read at a time, in the model."""

Place = tuple[int, int]


def arguments_of(launch: dict[str, Any]) -> dict[str, Any]:
    """Arguments and options of a recorded launch, by name."""
    kernel = getattr(importlib.import_module(launch["module"]), launch["kernel"])
    return dict(zip(kernel.arg_names, launch["arguments"])) | launch["options"]


def tiles(launch: dict[str, Any]) -> Iterator[list[Place]]:
    """Of each program, in the order in which programs start: first row and first column of its tiles, in order."""
    given = arguments_of(launch)
    height, width = given["BLOCK_N"], given["PARTS"] * given["BLOCK_V"]
    row_blocks = -(-given["N"] // height)
    for program in range(launch["grid"][0]):
        if "splits" in given:
            block, split = program_place.fn(program, row_blocks, given["splits"], given["GROUP"])
            first = split * given["split_columns"]
            last = min(first + given["split_columns"], given["columns"])
        else:
            column_blocks = -(-(given["end"] - given["begin"]) // width)
            block, column = program_place.fn(program, row_blocks, column_blocks, given["GROUP"])
            first = given["begin"] + column * width
            last = first + 1
        yield [(block * height, start) for start in range(first, last, width)]


def bytes_read(launches: list[dict[str, Any]], programs: int, cache: int = CACHE) -> int:
    """Bytes of rows and weight that some launches, one after another, read from memory.

    Args:
        launches: Recorded, of one kernel over 16-bit operands.
        programs: That a multiprocessor holds at a time.
        cache: Bytes that L2 holds.
    """
    held: OrderedDict[tuple[str, int, int], int] = OrderedDict()
    free, read = cache, 0
    for launch in launches:
        given, order = arguments_of(launch), list(tiles(launch))
        sizes = {"x": given["BLOCK_N"] * DEPTH * 2, "w": given["PARTS"] * given["BLOCK_V"] * DEPTH * 2}
        wave = MULTIPROCESSORS * programs
        for first in range(0, len(order), wave):
            for step in zip_longest(*order[first : first + wave]):
                places = [place for place in step if place]
                needed = dict.fromkeys(
                    [("x", row) for row, _ in places] + [("w", column) for _, column in places]
                )
                for depth in range(0, given["D"], DEPTH):
                    for name, start in needed:
                        block = name, start, depth
                        if block in held:
                            held.move_to_end(block)
                            continue
                        held[block] = sizes[name]
                        free, read = free - sizes[name], read + sizes[name]
                        while free < 0:
                            free += held.popitem(last=False)[1]
    return read
