"""Decontamination: documents that share an n-gram of words with evaluation data are dropped (Brown et al. 2020, app. C).

datatrove's own step takes its index from lighteval's tasks, which have to be downloaded; this one reads files. Words
are those of datatrove's `simplify_text` (lower case, digits as 0, no punctuation, no accents).
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.text import simplify_text

from perdure.pipeline import recipe
from perdure.pipeline.data.counted import Block
from perdure.pipeline.data.inputs import is_json_lines
from perdure.pipeline.data.normalise import split_words
from perdure.pipeline.data.texts import json_lines, plain_lines
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import read_json, write_json

BASE = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier of the rolling hash, odd, so that every word of an n-gram counts."""


def decontaminate(step: recipe.Decontaminate, folder: Path) -> Block:
    """Drops documents that share an n-gram with evaluation files; the index is built once."""
    return Block(
        "contaminated",
        NgramFilter(folder, step.n_grams),
        match=[(NgramIndex(step.files, step.n_grams, folder), 1)],
    )


def ngram_hashes(text: str, n: int) -> np.ndarray:
    """Hashes of a text's word n-grams, uint64 [words - n + 1], empty for shorter texts.

    The hash of words w_1..w_n is sum_i xxh3(w_i) BASE^(n - i) mod 2^64.
    """
    return joined_hashes(word_hashes(simple_words(text)), n)


def simple_words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return split_words(simplify_text(text))


def word_hashes(words: list[str]) -> np.ndarray:
    """Hash of every word, uint64 [words]."""
    return np.array([xxhash.xxh3_64_intdigest(word.encode()) for word in words], np.uint64)


def joined_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hashes of n-grams from those of words: uint64 [words] -> [words - n + 1], empty for fewer words."""
    if len(hashes) < n:
        return np.empty(0, np.uint64)
    total = np.zeros(len(hashes) - n + 1, np.uint64)
    for start in range(n):
        total = total * BASE + hashes[start : start + len(total)]
    return total


def evaluation_texts(path: Path) -> Iterator[str]:
    """Every string in every line of JSON lines; of other files, the whole text.

    Raises:
        PerdureError: If a line is not JSON, or the file is not what its name says.
    """
    if not is_json_lines(path):
        yield "".join(plain_lines(path))
        return
    for _, value in json_lines(path):
        yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


class NgramIndex(PipelineStep):
    """Writes the index: `hashes.npy`, uint64 sorted, `files.npy`, int32, the file of each, and `index.json`."""

    type = "🦠 - DECONT"
    name = "n-gram index"

    def __init__(self, files: list[Path], n: int, folder: Path):
        super().__init__()
        self.files, self.n, self.folder = files, n, folder

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Builds the index; an n-gram of several files counts for the first.

        Raises:
            PerdureError: If a file has nothing that can be looked for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        parts, numbers, described = [], [], []
        for number, path in enumerate(self.files):
            found = [ngram_hashes(text, self.n) for text in evaluation_texts(path)]
            short = sum(not len(hashes) for hashes in found)
            if short == len(found):
                raise PerdureError(
                    f"{path}: none of its {short:,} strings has {self.n} words, so that nothing could be looked for and "
                    "it would leak into training; lower the step's n_grams, or name the right file"
                )
            parts += found
            numbers.append(np.full(sum(map(len, found)), number, np.int32))
            described.append({"file": path.name, "strings": len(found), "too_short": short})
        hashes, first = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]), return_index=True)
        np.save(self.folder / "hashes.npy", hashes)
        np.save(self.folder / "files.npy", np.concatenate(numbers)[first])
        write_json(self.folder / "index.json", described)


class NgramFilter(BaseFilter):
    """Drops documents that share an n-gram with the index."""

    name = "🦠 decontaminate"

    def __init__(self, folder: Path, n: int):
        super().__init__()
        self.folder, self.n = folder, n

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """Whether a document is clean, else the file of its first n-gram that is not."""
        hashes, files, names = _load_index(self.folder)
        found = ngram_hashes(document.text, self.n)
        if not len(hashes) or not len(found):
            return True
        places = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
        matches = np.flatnonzero(hashes[places] == found)
        if not len(matches):
            return True
        return False, f"contaminated:{names[files[places[matches[0]]]]}"


@lru_cache(maxsize=2)
def _load_index(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    names = [entry["file"] for entry in read_json(folder / "index.json")]
    return np.load(folder / "hashes.npy"), np.load(folder / "files.npy"), names
