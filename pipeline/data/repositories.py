"""Repositories as documents: the files of each, from all tasks, brought together through a sorted spool on disk.

First every task writes its files to a spool of its own, in the order of the hash of their repository. Then every task merges
its share of the hashes out of all spools. So one repository's files are in memory at a time, and of each of a task's files 32
bytes.
"""

import heapq
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.cleaning.normalise import count_words, text_hash
from perdure.pipeline.data.fim import Infill, Part, Rendering, chance, draws, rendering
from perdure.pipeline.data.imports import by_dependencies
from perdure.pipeline.data.read.repositories import JOINED, PLACE

FILES, SPLIT = "perdure:files", "perdure:split"
"""Keys of a repository's metadata: its files, `(id, path, text)` each, and the split that they belong to."""


@dataclass(frozen=True)
class Repositories:
    """How a source's repositories become documents.

    Attributes:
        fields: Metadata fields with the name of a file's repository, and its path in it.
        order: `given` or `dependencies`.
        names: Share of the repositories whose name and paths are shown.
        sentinels: Ids of the tokens before a repository's name, and before a file.
        name_end: What stands behind a repository's name.
        file_end: What stands behind a file.
        path_inside: Whether the prefix of a file that is filled in begins with its path, which otherwise stands before it.
        seed: The recipe's seed.
        view: The source's name.
    """

    fields: tuple[str, str]
    order: str
    names: float
    sentinels: tuple[int, int]
    name_end: str
    file_end: str
    path_inside: bool
    seed: int
    view: str


class SpoolFiles(PipelineStep):
    """Writes a task's files to `<rank>.jsonl`, and to `<rank>.npy` where each begins and ends, by hash of their repository."""

    type = "📚 - SPOOL"
    name = "Files by repository"

    def __init__(self, directory: Path, fields: tuple[str, str]):
        super().__init__()
        self.directory, self.fields = directory, fields

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Spools this task's files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        keys, ends = array("Q"), array("Q", [0])
        with (self.directory / f"{rank:05d}.jsonl").open("wb") as file:
            for document in data:
                keys.append(_key(document.metadata[self.fields[0]]))
                row = {"id": document.id, "text": document.text, "metadata": document.metadata}
                ends.append(ends[-1] + file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n"))
        hashes, borders = np.array(keys, np.uint64), np.array(ends, np.uint64)
        places = np.argsort(hashes, kind="stable")
        rows = np.stack([hashes[places], borders[:-1][places], borders[1:][places]], axis=1)
        with (self.directory / f"{rank:05d}.part").open("wb") as file:
            np.save(file, rows)
        (self.directory / f"{rank:05d}.part").rename(self.directory / f"{rank:05d}.npy")


class MergeRepositories(PipelineStep):
    """Yields a task's share of the repositories: of each a document of the files to train on, and one of those held out."""

    type = "📚 - MERGE"
    name = "Repositories"

    def __init__(self, directory: Path, form: Repositories, split_of: Any):
        super().__init__()
        self.directory, self.form, self.split_of = directory, form, split_of

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields documents without tokens yet: `FILES` and `SPLIT` stand in their metadata."""
        bounds = [share * (1 << 64) // world_size for share in (rank, rank + 1)]
        spools = [_read_spool(self.directory, task, bounds) for task in range(world_size)]
        merged = heapq.merge(*spools, key=lambda entry: entry[0])
        for _, group in groupby(merged, key=lambda entry: entry[0]):
            rows = [json.loads(line) for _, line in group]
            rows.sort(key=lambda row: (row["metadata"][self.form.fields[0]], *_place(row)))
            for name, own in groupby(rows, key=lambda row: row["metadata"][self.form.fields[0]]):
                yield from self.documents(name, list(own))

    def documents(self, name: str, rows: list[dict]) -> Iterator[Document]:
        """The documents of a repository."""
        words = {id(row): count_words(row["text"]) for row in rows}
        self.stat_update("in", value=len(rows))
        self.stat_update("words_in", value=sum(words.values()))
        splits: dict[str | None, list[dict]] = {"train": [], "heldout": [], None: []}
        for row in rows:
            splits[self.split_of(text_hash(row["text"]))].append(row)
        for row in splits.pop(None):
            self.stat_update("dropped:heldout_elsewhere")
            self.stat_update("words_dropped:heldout_elsewhere", value=words[id(row)])
        for split, own in splits.items():
            if not own:
                continue
            files = [(row["id"], row["metadata"][self.form.fields[1]], row["text"]) for row in own]
            if self.form.order == "dependencies":
                order, unparsable = by_dependencies([(path, text) for _, path, text in files])
                files = [files[number] for number in order]
                self.stat_update("unparsable", value=unparsable)
            self.stat_update("out")
            self.stat_update("words_out", value=sum(words[id(row)] for row in own))
            self.stat_update(f"dropped:{JOINED}", value=len(own) - 1)
            self.stat_update(f"words_dropped:{JOINED}", value=0)
            text = "\n".join(text for *_, text in files)
            yield Document(text, name, metadata={"repository": name, FILES: files, SPLIT: split})


def described(metadata: dict[str, Any]) -> dict[str, Any]:
    """A document's metadata as they are kept: of a repository's files the ids; no place where something was read."""
    kept = {key: value for key, value in metadata.items() if key not in (FILES, SPLIT, PLACE)}
    return kept | ({"files": [row[0] for row in metadata[FILES]]} if FILES in metadata else {})


def render_repository(form: Repositories, infill: Infill | None, document: Document) -> Rendering:
    """A repository as it is tokenised.

    As in StarCoder2 (Lozhkov et al. 2024, arXiv 2402.19173), a share of the repositories is chosen to be filled in, and then
    each file of these with the same chance.

    Args:
        form: How.
        infill: Which files are to be filled in; None: none.
        document: What `MergeRepositories` yields.
    """
    named = chance(draws(form.seed, f"{form.view}\0names", document.id)[0], form.names)
    name_token, file_token = form.sentinels
    parts: list[Part] = [name_token, document.id + form.name_end] if named else []
    psm = spm = 0
    chosen = infill is not None and chance(
        draws(infill.seed, f"{infill.view}\0repository", document.id)[0], infill.rate
    )
    for identifier, path, text in document.metadata[FILES]:
        before, code = (f"{path}\n" if named else ""), text + form.file_end
        outside, inside = ("", before) if form.path_inside else (before, "")
        transformed = rendering(infill, identifier, code, inside) if chosen and infill else None
        found = transformed or Rendering([inside + code])
        parts += [file_token, *([outside] if outside else []), *found.parts]
        psm, spm = psm + found.psm, spm + found.spm
    return Rendering(parts, psm, spm)


def _key(name: str) -> int:
    """64 bits of a repository's name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def _place(row: dict) -> tuple:
    """What files of a repository are sorted by: the file that they were read from, the place in it, and their id."""
    file, place = row["metadata"].get(PLACE, ("", 0))
    return (file, *((0, place, "") if isinstance(place, int) else (1, 0, str(place))), row["id"])


def _read_spool(directory: Path, task: int, bounds: list[int]) -> Iterator[tuple[int, bytes]]:
    """Hashes and lines of a task's spool, from one hash to below another, in order."""
    index = directory / f"{task:05d}.npy"
    if not index.exists():
        raise PerdureError(
            f"{index}: not there; does this machine see files that others write? Run the same command again: it goes on here"
        )
    rows = np.load(index, mmap_mode="r")
    hashes = rows[:, 0]
    begin = int(np.searchsorted(hashes, np.uint64(bounds[0])))
    stop = len(rows) if bounds[1] >= 1 << 64 else int(np.searchsorted(hashes, np.uint64(bounds[1])))
    with (directory / f"{task:05d}.jsonl").open("rb") as file:
        for place in range(begin, stop):
            key, start, end = (int(value) for value in rows[place])
            file.seek(start)
            yield key, file.read(end - start)
