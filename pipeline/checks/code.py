"""Checks of sources of code: what stands between the parts of a document, and what cannot be transformed."""

from collections.abc import Iterator

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.data.fim import is_separator, repository_spellings, sentinels_of, unusable
from perdure.pipeline.data.tokenizer.directory import SEPARATOR, own_separator, read_tokenizer
from perdure.pipeline.recipe import (
    ExtendedTokenizer,
    HuggingFaceTokenizer,
    PythonCodeReader,
    Recipe,
    RowsReader,
    SentencePieceTokenizer,
    Source,
    TrainedTokenizer,
)

Problems = Iterator[Problem]


def between_texts(recipe: Recipe) -> Problems:
    """Checks documents to be filled in, and repositories: that they are texts, and that the tokenizer has their sentinels."""
    for name, source in recipe.sources.items():
        where = f"sources.{name}"
        if source.has_conversations:
            for field in ("fim", "repository"):
                if getattr(source, field) is not None and (field != "fim" or source.infilled):
                    remedy = "its documents are conversations (`messages_field`), whose turns have an order; leave it out"
                    yield Problem(f"{where}.{field}", field, remedy)
            continue
        yield from _repository(where, source)
        found = sentinels_of(source)
        if shared := {*found.get("fim.sentinels", ())} & {*found.get("repository.sentinels", ())}:
            remedy = f"{min(shared)!r} is one of `fim`, too; the tokens of both should differ"
            assert source.repository is not None
            yield Problem(f"{where}.repository.sentinels", source.repository.sentinels, remedy)
        for field, tokens in found.items():
            if tokens and (reason := _unusable(recipe, tokens)):
                section = getattr(source, field.partition(".")[0])
                yield Problem(f"{where}.{field}", section.sentinels, reason)


def _repository(where: str, source: Source) -> Problems:
    """Checks that files have repositories and paths, and that nothing is asked for that files alone have."""
    fields = {name: getattr(source.reader, name, None) for name in ("repository_field", "path_field")}
    if source.repository is None:
        for name, value in fields.items():
            if value is not None:
                yield Problem(
                    f"{where}.reader.{name}", value, "has no use without `repository` of the source"
                )
        return
    if not isinstance(source.reader, RowsReader | PythonCodeReader):
        remedy = "its documents have no fields; use a reader of JSON lines, Parquet, Hugging Face datasets, or `python_code`"
        yield Problem(f"{where}.reader.type", source.reader.type, remedy)
    elif isinstance(source.reader, RowsReader):
        for name, value in fields.items():
            if value is None:
                remedy = "name the field, which `repository` of the source needs"
                yield Problem(f"{where}.reader.{name}", value, remedy)
        yield from _own_fields(where, source.reader)
    if not repository_spellings(source):
        remedy = "should be `starcoder`, `qwen`, or two tokens: what `fim` names has none for repositories"
        yield Problem(f"{where}.repository.sentinels", source.repository.sentinels, remedy)
    for name in ("topics", "subset", "date_field", "prefix"):
        if (value := getattr(source, name)) is not None:
            remedy = "is of documents, and a repository is one of many files; leave it out, or `repository`"
            yield Problem(f"{where}.{name}", value if isinstance(value, str) else value.type, remedy)


def _own_fields(where: str, reader: RowsReader) -> Problems:
    """Checks that repository and path stand in fields of their own."""
    used = {getattr(reader, name, None): what for name, what in (("text_field", "text"), ("id_field", "id"))}
    for name, what in (("repository_field", "repository"), ("path_field", "path")):
        if (value := getattr(reader, name)) is None:
            continue
        if value in used:
            yield Problem(
                f"{where}.reader.{name}", value, f"should be another field than that of the {used[value]}"
            )
        used[value] = what


def _unusable(recipe: Recipe, tokens: tuple[str, ...]) -> str | None:
    """Why the recipe's tokenizer cannot have these tokens between texts, as far as it is known before it is made."""
    spec = recipe.tokenizer
    if isinstance(spec, TrainedTokenizer):
        return is_separator(tokens, SEPARATOR)
    if isinstance(spec, SentencePieceTokenizer):
        return "a sentencepiece model tells no sentinels from text; choose a model's `tokenizer.json` that has them"
    if not isinstance(spec, HuggingFaceTokenizer | ExtendedTokenizer):
        return None
    try:
        separator = spec.eos_token or own_separator(spec.path)
        return is_separator(tokens, separator) or unusable(
            read_tokenizer(spec.path / "tokenizer.json"), tokens
        )
    except (PerdureError, OSError):
        return None  # told already
