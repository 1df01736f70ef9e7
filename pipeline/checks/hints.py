"""What a remedy can suggest."""

import difflib
import os
from collections.abc import Iterable
from heapq import nlargest
from itertools import islice, takewhile
from pathlib import Path

from perdure.pipeline.errors import Problem

NEAREST, LONGEST = 100, 300
"""Names that a misspelt word is compared with, which takes long, and the letters of it that are."""


def near(word: str, known: Iterable[str]) -> str:
    """A hint for the end of a remedy: what is near a misspelt word, else what there is."""
    known = sorted(known)
    beside = known if len(known) <= NEAREST else nlargest(NEAREST, known, lambda name: _shared(word, name))
    if match := difflib.get_close_matches(word[:LONGEST], beside, n=1):
        return f"; did you mean `{match[0]}`?"
    return f"; there is {', '.join(f'`{name}`' for name in known[:10])}" if known else ""


def _shared(left: str, right: str) -> int:
    """Letters that two words share at their beginnings and ends."""
    sides = ((left, right), (left[::-1], right[::-1]))
    return sum(len(list(takewhile(lambda pair: pair[0] == pair[1], zip(*side)))) for side in sides)


def missing(where: str, path: Path, kind: str) -> Problem:
    """A path that does not exist, with what is near it."""
    parent = path.parent
    if path.is_dir():
        return Problem(where, str(path), "a directory; should be a file")
    if not parent.is_dir():
        return Problem(where, str(path), f"no such {kind}: there is no directory {parent}", absent=True)
    match = difflib.get_close_matches(path.name, islice(os.listdir(parent), 1_000), n=1)
    hint = f"; did you mean `{parent / match[0]}`?" if match else ""
    return Problem(where, str(path), f"no such {kind}{hint}", absent=True)


def near_package(package: str) -> str:
    """A hint for the end of a remedy: an installed package with a similar name, else how to get it."""
    from importlib.metadata import packages_distributions

    match = difflib.get_close_matches(package, packages_distributions(), n=1)
    return f"; did you mean `{match[0]}`?" if match else f" (try `pip install {package}`)"
