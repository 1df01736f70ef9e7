"""Search for n-grams of words in a source's training shards, as a datatrove step.

What is looked at is what was trained on: the shards' own tokens, decoded. A search that ended is kept below the data,
`<data>/leaks/<hash8>/`: `grams.npz`, the n-grams looked for, and `found.npz`, those found. Later searches of the same data
leave them out. Until then each shard's finds are a file of their own, so that a search that was killed goes on.
"""

import fcntl
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from perdure.pipeline.core.files import read_json, write_atomic
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.integrity import require_whole
from perdure.pipeline.core.manifest import finish, is_finished
from perdure.pipeline.core.shards import PREFIX, Shard, open_shard
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.data.backends.local import Execute, building
from perdure.pipeline.data.fim import restored
from perdure.pipeline.data.ngrams import joined_hashes, simple_words, word_hashes, word_sizes
from perdure.pipeline.data.shard import PREFIXES

FORMAT = 1
"""Version of what is written; a change in its meaning makes new directories."""
BATCH_TOKENS = 1 << 18
"""Tokens decoded at a time, about: whole documents."""

Place = tuple[int, int]
"""Shard and number of a document."""
Grams = dict[int, np.ndarray]
"""By length n, hashes of n-grams, uint64 sorted."""
Places = dict[tuple[int, int], Place]
"""By length and hash of an n-gram, the first document that holds it."""


def search_source(data: Path, tokenizer: Path, wanted: Grams, execute: Execute) -> Places:
    """The first training document of a source with each of some n-grams.

    Args:
        data: The source's directory of shards.
        tokenizer: The tokenizer's directory.
        wanted: What to look for. What earlier searches looked for is taken from them.
        execute: Runs the tasks, one a shard; a task that was done, by a search that was killed too, is not done again.

    Raises:
        PerdureError: If a shard is broken, or tasks fail.
    """
    with _alone(data / "leaks"):
        searches = [path.parent for path in sorted((data / "leaks").glob("*/_SUCCESS"))]
        missing = dict(wanted)
        for search in searches:
            require_whole(search)
            with np.load(search / "grams.npz") as known:
                for n in {int(n) for n in known.files} & missing.keys():
                    missing[n] = np.setdiff1d(missing[n], known[str(n)], assume_unique=True)
        missing = {n: hashes for n, hashes in missing.items() if len(hashes)}
        if missing:
            searches.append(_search(data, tokenizer, missing, execute))
    places: Places = {}
    for search in searches:
        places |= _load(search / "found.npz")
    return places


def in_this_process(steps: list[PipelineStep], tasks: int, directory: Path) -> list[Counter]:
    """Runs tasks one after the other in this process: for searches that take less time than worker processes to start."""
    for rank in range(tasks):
        for step in steps:
            step.run(None, rank, tasks)
    return []


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Locks a directory of searches, so that other runs over the same data wait and reuse this one."""
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _search(data: Path, tokenizer: Path, grams: Grams, execute: Execute) -> Path:
    names = {n: hash_of(hashes.tolist()) for n, hashes in sorted(grams.items())}
    final = data / "leaks" / hash_of([FORMAT, names])[:8]
    assert not is_finished(final)  # it would have known them
    tasks = read_json(data / "manifest.json")["tasks"]
    with building(data.parent.parent, final) as work:
        _write_arrays(work / "artefact" / "grams.npz", {str(n): hashes for n, hashes in grams.items()})
        step = LeakSearch(data, tokenizer, work / "artefact" / "grams.npz", work / "shards")
        execute([step], tasks, work / "search")
        parts = [_load(work / "shards" / f"{task:05d}.npz") for task in range(tasks)]
        found: Places = {}
        for part in parts:
            found = part | found
        _save(work / "artefact" / "found.npz", found)
        finish(work / "artefact", {"n_grams": {str(n): len(hashes) for n, hashes in grams.items()}})
    return final


class LeakSearch(PipelineStep):
    """Searches shard `rank` and writes what was found to `<rank>.npz`, unless that exists."""

    type = "🦠 - DECONT"
    name = "leaks"

    def __init__(self, data: Path, tokenizer: Path, grams: Path, directory: Path):
        super().__init__()
        self.data, self.tokenizer, self.grams, self.directory = data, tokenizer, grams, directory

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Searches shard `rank`."""
        path = self.directory / f"{rank:05d}.npz"
        if path.exists():
            return
        with np.load(self.grams) as file:
            grams = {int(n): file[n] for n in file.files}
        shard, found = open_shard(self.data / PREFIXES["train"].format(rank)), Places()
        manifest = read_json(self.data / "manifest.json")
        marks = tuple(manifest.get(key, {}).get("sentinels", ()) for key in ("fim", "repository"))
        numbers, mask = range(len(shard.lengths)), prefix_mask(self.data, PREFIXES["train"].format(rank))
        for number, text in texts(shard, self.tokenizer, numbers, marks, mask):
            words = simple_words(text)
            own, sizes = word_hashes(words), word_sizes(words)
            for n, wanted in grams.items():
                hashes = joined_hashes(own, sizes, n)
                if len(hashes):
                    places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
                    for value in hashes[wanted[places] == hashes].tolist():
                        found.setdefault((n, value), (rank, number))
        _save(path, found)


def texts(
    shard: Shard,
    tokenizer: Path,
    numbers: range | list[int],
    marks: tuple[Sequence[int], Sequence[int]] = ((), ()),
    mask: Shard | None = None,
) -> Iterator[tuple[int, str]]:
    """Numbers and texts of documents of a shard, as they were before fill-in-the-middle.

    `marks` are ids of its sentinels, and of tokens that end a text inside a document. Prefixes that the label mask marks are
    left out.
    """
    vocabulary = load_tokenizer(tokenizer).tokenizer
    batch: list[int] = []
    size = 0
    for place, number in enumerate(numbers, 1):
        batch.append(number)
        size += int(shard.lengths[number])
        if size >= BATCH_TOKENS or place == len(numbers):
            starts = [(shard.start(n), int(shard.lengths[n]) - 1) for n in batch]  # without end-of-sequence
            spans = [slice(start, start + length) for start, length in starts]
            ids = [_without_prefix(shard, mask, span).tolist() for span in spans]
            if marks[0]:
                ids = [restored(tokens, *marks) for tokens in ids]
            yield from zip(batch, vocabulary.decode_batch(ids, skip_special_tokens=False), strict=True)
            batch, size = [], 0


def _without_prefix(shard: Shard, mask: Shard | None, span: slice) -> np.ndarray:
    values = shard.values[span]
    return values if mask is None else values[mask.values[span] != PREFIX]


def prefix_mask(directory: Path, shard: str) -> Shard | None:
    """The label mask of a shard of a source with prefixes; None of other sources.

    Args:
        directory: The source's directory of shards.
        shard: The shard's name, such as `00000` or `heldout.00000`.
    """
    has_prefix = read_json(directory / "manifest.json").get("prefix") is not None
    return open_shard(directory / f"{shard}.mask") if has_prefix else None


def _save(path: Path, found: Places) -> None:
    keys, places = np.array(list(found), np.uint64), np.array(list(found.values()), np.int64)
    _write_arrays(path, {"keys": keys.reshape(-1, 2), "places": places.reshape(-1, 2)})


def _load(path: Path) -> Places:
    with np.load(path) as file:
        pairs = zip(file["keys"].tolist(), file["places"].tolist(), strict=True)
        return {(n, value): (shard, number) for (n, value), (shard, number) in pairs}


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_atomic(path, content.getvalue())
