"""Finds text that is read twice: files that several sources read, or one source more than once."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations, repeat
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read.files import listed
from perdure.pipeline.data.read.inputs import edges, huggingface_on_disk, read_files
from perdure.pipeline.data.read.modules import python_modules
from perdure.pipeline.recipe import (
    HuggingFaceReader,
    JsonlReader,
    ParquetReader,
    PythonCodeReader,
    PythonDocsReader,
    Reader,
    Recipe,
)
from perdure.pipeline.recipe.where import disjoint

PAIRED = 20
"""Sources with the same text that are named two by two."""


def same_files(recipe: Recipe) -> list[str]:
    """Remarks about sources that read the same text: one file by any path, or files that look alike.

    Files look alike that have one size, and the same first and last 64 KiB.

    Returns:
        A line for every two such sources, unless they take different documents by `where`, and for every source whose own files
        are copies of each other.
    """
    readers = {name: source.reader for name, source in recipe.sources.items()}
    by_size: dict[tuple[str, int], list[tuple[str, str, Path]]] = defaultdict(list)
    for name, reader in readers.items():
        with suppress(PerdureError, OSError):  # what is missing has a problem of its own
            for kind, label, path in _files(reader):
                by_size[kind, path.stat().st_size].append((name, label, path))
    shared: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (_, size), files in by_size.items():
        names = {name for name, *_ in files}
        if not size or len(files) < 2 or (len(names) == 1 and not isinstance(readers[files[0][0]], IN_ROWS)):
            continue
        alike: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name, label, path in files:
            alike[edges(path)][name].append(label)
        for labels in alike.values():
            for first, second in _pairs(list(labels)):
                shared[first, second].update(labels[first])
            for name in labels:
                if len(labels[name]) > 1 and isinstance(readers[name], IN_ROWS):
                    shared[name, name].update(labels[name][1:])
    hubs: dict[str, list[str]] = defaultdict(list)
    datasets = {name: reader for name, reader in readers.items() if isinstance(reader, HuggingFaceReader)}
    for name, reader in datasets.items():
        hubs[reader.model_dump_json()].append(name)
    for same in hubs.values():
        for first, second in _pairs(same):
            shared[first, second].add(str(datasets[first].path))
    wheres = {name: getattr(reader, "where", {}) for name, reader in readers.items()}
    return [
        _note(first, second, sorted(labels))
        for (first, second), labels in shared.items()
        if not disjoint(wheres[first], wheres[second])
    ]


def _pairs(names: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of sources with the same text; of many sources, each paired with the first only."""
    return combinations(names, 2) if len(names) <= PAIRED else zip(repeat(names[0]), names[1:])


def _note(first: str, second: str, labels: list[str]) -> str:
    if first == second:
        return f"{first}: {listed(labels, 'with the same text as others')}; only exact_dedup drops documents twice there"
    return f"{first} and {second}: the same text in {listed(labels, 'of each')}; who mixes both sees its documents twice"


IN_ROWS = JsonlReader | ParquetReader
"""Readers whose files are many documents: copies among one source's own are told of."""


def _files(reader: Reader) -> Iterator[tuple[str, str, Path]]:
    """Files that a reader reads: kind, name for messages, path."""
    if isinstance(reader, PythonDocsReader | PythonCodeReader):
        for module in python_modules(reader.packages):
            yield reader.type, module.name, module.path
    elif isinstance(reader, HuggingFaceReader):
        if directory := huggingface_on_disk(reader):
            for path in sorted(directory.glob("data-*.arrow")):
                yield "file", path.name, path
    elif found := read_files(reader):
        for name in found[1]:
            yield "file", name, found[0] / name
