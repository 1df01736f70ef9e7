"""The step `language`: language identification by fastText (Joulin et al. 2016), as datatrove does it, from a model file on
disk.

datatrove's own filter downloads its model, and wants a build of fastText that needs a compiler.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.step_inputs import LABEL, language_model
from perdure.pipeline.recipe import LanguageIdentification


def block(step: LanguageIdentification, _folder: Path) -> Block:
    """The step's block."""
    return Block("other_language", LanguageFilter(language_model(step.model), step.keep, step.min_score))


class LanguageFilter(BaseFilter):
    """Writes `language` and `language_score` to the metadata; drops documents in none of the languages asked for."""

    name = "🌍 Language"

    def __init__(self, model: Path, keep: list[str] | None, min_score: float):
        super().__init__()
        self.model, self.keep, self.min_score = model, keep, min_score

    def filter(self, document: Document) -> bool:
        """True for a document in a language to keep: one whose probability is above `min_score`."""
        labels, scores = _load(self.model).predict(document.text.replace("\n", " "), k=-1)
        found = {label.removeprefix(LABEL): score for label, score in zip(labels, scores, strict=True)}
        best = max(found, key=found.__getitem__)
        document.metadata |= {"language": best, "language_score": round(min(float(found[best]), 1.0), 4)}
        return self.keep is None or any(found.get(code, 0.0) > self.min_score for code in self.keep)


@lru_cache(maxsize=1)
def _load(model: Path) -> Any:
    from fasttext.FastText import _FastText

    return _FastText(str(model))
