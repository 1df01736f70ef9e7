"""The files of a repository in an order in which a file stands behind those that it imports; Python alone."""

import ast
import heapq
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

Name = tuple[str, ...]
"""A module's dotted name, in parts."""


def by_dependencies(files: Sequence[tuple[str, str]]) -> tuple[list[int], int]:
    """Sorts files so that what is imported comes first.

    Of files whose imports have all come, the first in the given order is next. Where there is none, as in a circle, it is the
    one that lacks the fewest, of these the first. A file that is no Python, or cannot be parsed, imports nothing.

    Args:
        files: Paths and texts, in the given order.

    Returns:
        The numbers of the files in their new order, and how many Python files cannot be parsed.
    """
    modules = {number: _module(path) for number, (path, _) in enumerate(files) if path.endswith(".py")}
    found: dict[Name, list[int]] = defaultdict(list)
    for number, name in modules.items():
        for begin in range(len(name)):
            found[name[begin:]].append(number)
    needs: list[set[int]] = [set() for _ in files]
    unparsable = 0
    for number, name in modules.items():
        path, text = files[number]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's code
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            unparsable += 1
            continue
        package = name if PurePosixPath(path).name == "__init__.py" else name[:-1]
        for wanted in _imported(tree, package):
            needs[number] |= _closest(found.get(wanted, []), modules, number)
    return _sorted(needs), unparsable


def _module(path: str) -> Name:
    """The dotted name of a file, from the repository's top."""
    parts = PurePosixPath(path).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _imported(tree: ast.Module, package: Name) -> Iterator[Name]:
    """Names that a module imports, each with all that may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            if node.level > len(package) + 1:
                continue  # beyond the top
            name = (*base, *(node.module.split(".") if node.module else ()))
            if name:
                yield name
            for alias in node.names:
                yield (*name, alias.name)


def _closest(candidates: list[int], modules: dict[int, Name], own: int) -> set[int]:
    """Of modules whose names end alike, the one with the shortest name, as the top of an import path would have it."""
    others = [number for number in candidates if number != own]
    return {min(others, key=lambda number: (len(modules[number]), number))} if others else set()


def _sorted(needs: list[set[int]]) -> list[int]:
    """Numbers of files, those first that others need."""
    needed_by: list[list[int]] = [[] for _ in needs]
    for number, own in enumerate(needs):
        for other in own:
            needed_by[other].append(number)
    lacking = [len(own) for own in needs]
    heap = [(count, number) for number, count in enumerate(lacking)]
    heapq.heapify(heap)
    done, order = [False] * len(needs), []
    while heap:
        count, number = heapq.heappop(heap)
        if done[number] or count != lacking[number]:
            continue
        done[number] = True
        order.append(number)
        for other in needed_by[number]:
            if not done[other]:
                lacking[other] -= 1
                heapq.heappush(heap, (lacking[other], other))
    return order
