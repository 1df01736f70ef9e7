"""Splits text into words and sentences for datatrove's blocks, by the language table."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from datatrove.utils import word_tokenizers
from datatrove.utils.word_tokenizers import WordTokenizer

from perdure.pipeline.data.cleaning.languages import splitter, with_language
from perdure.pipeline.recipe import CleaningStep


class LanguageSplitter(WordTokenizer):
    """Word and sentence splitter of a language. It is pickled as the language's code; a process loads dictionaries once."""

    def word_tokenize(self, text: str) -> list[str]:
        """Words, punctuation marks among them."""
        return _load(self.language).word_tokenize(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Sentences."""
        return _load(self.language).sent_tokenize(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Where sentences begin and end, in characters."""
        return _load(self.language).span_tokenize(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LanguageSplitter) and other.language == self.language

    def __hash__(self) -> int:
        return hash(self.language)


def filter_options(step: CleaningStep) -> dict[str, Any]:
    """Arguments of a datatrove filter: a step's fields, defaults of its language filled in, a splitter as `language`."""
    options = with_language(step)
    if "language" in options:
        options["language"] = LanguageSplitter(options["language"])
    return options


@lru_cache
def _load(language: str) -> WordTokenizer:
    found = splitter(language)
    assert found is not None  # a checked recipe names none that nobody knows
    kind: Callable[..., WordTokenizer] = getattr(word_tokenizers, found.kind)
    return kind(found.language) if found.language else kind()
