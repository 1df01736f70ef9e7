"""Checks of sources of code: what stands between the parts of a document, and what cannot be transformed."""

from collections.abc import Iterator

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.data.fim import spellings, unusable
from perdure.pipeline.data.tokenizer.directory import read_tokenizer
from perdure.pipeline.recipe import (
    ExtendedTokenizer,
    HuggingFaceTokenizer,
    Recipe,
    SentencePieceTokenizer,
)

Problems = Iterator[Problem]


def infilled(recipe: Recipe) -> Problems:
    """Checks that documents to be filled in the middle are texts, and that the tokenizer has their sentinels."""
    for name, source in recipe.sources.items():
        if (fim := source.infilled) is None:
            continue
        where = f"sources.{name}.fim"
        if source.has_conversations:
            remedy = (
                "its documents are conversations (`messages_field`), whose turns have an order; leave it out"
            )
            yield Problem(where, fim.rate, remedy)
        elif reason := _unusable(recipe, spellings(fim)):
            yield Problem(f"{where}.sentinels", fim.sentinels, reason)


def _unusable(recipe: Recipe, tokens: tuple[str, ...]) -> str | None:
    """Why the recipe's tokenizer cannot have these tokens between texts, as far as it is known before it is made."""
    spec = recipe.tokenizer
    if isinstance(spec, SentencePieceTokenizer):
        return "a sentencepiece model tells no sentinels from text; choose a model's `tokenizer.json` that has them"
    if not isinstance(spec, HuggingFaceTokenizer | ExtendedTokenizer):
        return None
    try:
        return unusable(read_tokenizer(spec.path / "tokenizer.json"), tokens)
    except (PerdureError, OSError):
        return None  # told already
