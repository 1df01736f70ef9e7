"""The step `decontaminate`: documents that share an n-gram of words with evaluation data are dropped (Brown et al. 2020, app.
C).

datatrove's own step takes its index from lighteval's tasks, which have to be downloaded, and splits words at blanks; this
one reads files, and takes n-grams of any script (`ngrams.py`).
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.ngrams import ngram_hashes, wanted_hashes
from perdure.pipeline.data.read.texts import evaluation_texts
from perdure.pipeline.recipe import Decontaminate

INDEX = "index.json"
"""Lists the evaluation files: `file`, its name, `strings` in it, and how many of them were `too_short` to be looked for."""


def block(step: Decontaminate, folder: Path) -> Block:
    """The step's block: one task builds the index of the evaluation files, then every task looks into it."""
    return Block(
        "contaminated",
        NgramFilter(folder, step.n_grams),
        match=[(NgramIndex(step.files, step.n_grams, folder), 1)],
        report=lambda: {"evaluation": read_json(folder / INDEX, list)},
    )


class NgramIndex(PipelineStep):
    """Writes the index: `hashes.npy`, uint64 sorted, `files.npy`, int32, the file of each, and `INDEX`.

    Where strings are looked for that are shorter than n words, `lengths.npy`, int64, has the words of all n-grams.
    """

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
        parts, numbers, described, lengths = [], [], [], {self.n}
        for number, path in enumerate(self.files):
            wanted = [wanted_hashes(text, self.n) for text in evaluation_texts(path)]
            found = [hashes for _, hashes in wanted]
            lengths |= {length for length, hashes in wanted if len(hashes)}
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
        if len(lengths) > 1:
            np.save(self.folder / "lengths.npy", sorted(lengths, reverse=True))
        write_json(self.folder / INDEX, described)


class NgramFilter(BaseFilter):
    """Drops documents that share an n-gram with the index."""

    name = "🦠 decontaminate"

    def __init__(self, folder: Path, n: int):
        super().__init__()
        self.folder, self.n = folder, n

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """True for a clean document, else False and the evaluation file of its first n-gram found there."""
        hashes, files, names, lengths = _load_index(self.folder)
        found = ngram_hashes(document.text, *(lengths or [self.n]))
        if not len(hashes) or not len(found):
            return True
        places = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
        matches = np.flatnonzero(hashes[places] == found)
        if not len(matches):
            return True
        return False, f"contaminated:{names[files[places[matches[0]]]]}"


@lru_cache(maxsize=2)
def _load_index(folder: Path) -> tuple[np.ndarray, np.ndarray, list[str], list[int]]:
    names = [entry["file"] for entry in read_json(folder / INDEX, list)]
    several = folder / "lengths.npy"
    lengths = np.load(several).tolist() if several.exists() else []
    return np.load(folder / "hashes.npy"), np.load(folder / "files.npy"), names, lengths
