"""Reading little of long memory-mapped arrays: on a terabyte's corpus hardly a page that a sample needs is in memory."""

import mmap

import numpy as np

PAGE = mmap.PAGESIZE


def find_place(ends: np.ndarray, position: int) -> int:
    """`np.searchsorted(ends, position, side="right")`, in a few reads instead of a page for every halving.

    Documents are about equally long over a long stretch, so that their ends grow about evenly: a place is guessed from the
    bracket's own ends (interpolation search), and a page of entries around it is looked at. Every third time the bracket
    is halved, so that an order by length costs no more than halving does.

    Args:
        ends: int64 [documents], ascending; where each document ends in the stream.
        position: In the stream, below `ends[-1]`.
    """
    around = PAGE // ends.itemsize // 2
    low, high, below, above = 0, len(ends), 0, int(ends[-1])  # ends[low - 1] == below <= position < above
    turn = 0
    while high - low > 2 * around:
        turn += 1
        share = (position - below) / (above - below) if turn % 3 else 0.5
        guess = low + int(share * (high - low))
        first, last = max(guess - around, low), min(guess + around, high) - 1
        if last < high - 1 and (found := int(ends[last])) <= position:
            low, below = last + 1, found
        elif first > low and (found := int(ends[first])) > position:
            high, above = first + 1, found
        else:
            low, high = first, last + 1
    return low + int(np.searchsorted(ends[low:high], position, side="right"))


def ask(array: np.ndarray, first: int, stop: int) -> None:
    """Has the system begin to read a stretch of a memory-mapped array, so that several are waited for at once."""
    if (mapped := memory_map(array)) is not None:
        map_begins = _address(np.frombuffer(mapped, np.uint8))
        begin = _address(array) - map_begins + first * array.itemsize
        start = begin - begin % PAGE
        mapped.madvise(mmap.MADV_WILLNEED, start, begin - start + (stop - first) * array.itemsize)


def memory_map(array: np.ndarray) -> mmap.mmap | None:
    """The map behind a memory-mapped array; None of another array, as that of an empty shard is."""
    return getattr(array, "_mmap", None) if isinstance(array, np.memmap) else None


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
