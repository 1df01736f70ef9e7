"""Suggestions at the end of an error: similar names, what exists."""

import difflib
import os
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

from perdure.pipeline.core.errors import Problem

NEAREST, LONGEST = 100, 300
"""Names that a misspelt word is compared with, which takes long, and the letters of it that are."""


def near(word: str, known: Iterable[str]) -> str:
    """A hint that names words similar to a misspelt one, or else those that exist."""
    word = word[:LONGEST]
    ordered, backwards = _ordered(tuple(known))
    beside = _around(word, ordered) + [name[::-1] for name in _around(word[::-1], backwards)]
    if match := difflib.get_close_matches(word, dict.fromkeys(beside), n=1):
        return f"; did you mean `{match[0]}`?"
    return f"; there is {', '.join(f'`{name}`' for name in ordered[:10])}" if ordered else ""


@lru_cache(8)
def _ordered(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Names sorted, and sorted by their reversed letters, so that those with equal beginnings or endings are neighbours."""
    return sorted(names), sorted(name[::-1] for name in names)


def _around(word: str, ordered: list[str]) -> list[str]:
    """The names that begin most like a word, or all of few."""
    place = bisect_left(ordered, word)
    return (
        ordered if len(ordered) <= NEAREST else ordered[max(0, place - NEAREST // 4) : place + NEAREST // 4]
    )


def missing(where: str, path: Path, kind: str) -> Problem:
    """An error about a path that does not exist, with similar ones."""
    parent = path.parent
    if path.is_dir():
        return Problem(where, str(path), "a directory; should be a file")
    if os.path.lexists(path):
        found = "should be a regular one" if path.exists() else "a link that leads nowhere"
        return Problem(where, str(path), f"no {kind}: {found}")
    if not parent.is_dir():
        return Problem(where, str(path), f"no such {kind}: there is no directory {parent}", absent=True)
    match = difflib.get_close_matches(path.name, islice(os.listdir(parent), 1_000), n=1)
    hint = f"; did you mean `{parent / match[0]}`?" if match else ""
    return Problem(where, str(path), f"no such {kind}{hint}", absent=True)


def near_package(package: str) -> str:
    """A hint that names an installed package with a similar name, or else how to install it."""
    from importlib.metadata import packages_distributions

    match = difflib.get_close_matches(package, packages_distributions(), n=1)
    return f"; did you mean `{match[0]}`?" if match else f" (try `pip install {package}`)"
