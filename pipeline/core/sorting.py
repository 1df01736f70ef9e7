"""External merge sort, and arrays on disk that are written a part at a time."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

ROWS = 1 << 22
"""Keys sorted at a time: a run, or a part of the merge."""


def sort_keys(keys: Iterable[np.ndarray], scratch: Path, rows: int = ROWS) -> Iterator[np.ndarray]:
    """An external merge sort (Knuth, The Art of Computer Programming 3, section 5.4).

    Args:
        keys: Parts of a long array, of any size, no NaN.
        scratch: An empty directory for the runs.
        rows: Keys in memory at a time.

    Yields:
        int64, parts of what a stable `argsort` of the whole array would give.
    """
    runs, first = [], 0
    for number, part in enumerate(_regroup(keys, rows)):
        places = np.argsort(part, kind="stable")
        paths = scratch / f"keys{number}.npy", scratch / f"places{number}.npy"
        for path, array in zip(paths, (part[places], first + places), strict=True):
            np.save(path, array)
        runs.append(tuple(np.load(path, mmap_mode="r") for path in paths))
        first += len(part)
    starts, width = [0] * len(runs), max(1, rows // max(1, len(runs)))
    while left := [number for number, (keys_, _) in enumerate(runs) if starts[number] < len(keys_)]:
        heads = {number: runs[number][0][starts[number] : starts[number] + width] for number in left}
        # The least of the last keys in view: what is below it cannot be preceded by anything out of view. Of equal keys,
        # those of earlier runs come first, because runs are made in the order of the keys.
        last, run = min((head[-1], number) for number, head in heads.items())
        taken = {
            number: int(np.searchsorted(head, last, "right" if number <= run else "left"))
            for number, head in heads.items()
        }
        merged = np.concatenate([heads[number][: taken[number]] for number in left])
        places = np.concatenate(
            [runs[number][1][starts[number] : starts[number] + taken[number]] for number in left]
        )
        yield places[np.argsort(merged, kind="stable")]
        for number in left:
            starts[number] += taken[number]


def _regroup(parts: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same numbers in parts of `rows`; the last may be smaller."""
    waiting: list[np.ndarray] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        while size >= rows:
            whole = np.concatenate(waiting)
            yield whole[:rows]
            waiting, size = [whole[rows:]], size - rows
    if size:
        yield np.concatenate(waiting)


def join(path: Path, parts: Iterable[np.ndarray], dtype: type, number: int | None = None) -> np.memmap:
    """Writes parts after one another to a `.npy` file, and maps it."""
    if number is None:
        parts = list(parts)  # maps of files
        number = sum(map(len, parts))
    whole, place = new_array(path, dtype, number), 0
    for part in parts:
        whole[place : place + len(part)] = part
        place += len(part)
    return whole


def new_array(path: Path, dtype: type, number: int) -> np.memmap:
    """Maps a new `.npy` file."""
    return np.lib.format.open_memmap(path, "w+", dtype, (number,))
