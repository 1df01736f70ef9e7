"""Checks of the prefixes of documents: fields that are there, and places in mixtures that can do without."""

from collections.abc import Iterator

from perdure.pipeline.checks.mixtures import named_places
from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.data.read.rows import first_fields
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.recipe import JsonlReader, ParquetReader, Recipe, RowsReader, Source, Version
from perdure.pipeline.recipe.prefixes import DATE, fields_of

Problems = Iterator[Problem]


def prefix(name: str, source: Source) -> Problems:
    """The fields that a prefix names: those that the first documents of some files have."""
    where, template, reader = f"sources.{name}.prefix", source.prefix, source.reader
    if not isinstance(template, str):
        return
    if source.has_conversations:
        yield Problem(
            where,
            template,
            "has no use for conversations, which the chat template renders; use a system message",
        )
        return
    if not isinstance(reader, RowsReader):
        yield Problem(
            where, template, f"documents of the reader `{reader.type}` have no fields beside their text"
        )
        return
    taken = {getattr(reader, "text_field", None): "text", getattr(reader, "id_field", None): "id"}
    for field in fields_of(template):
        if what := taken.get(field):
            remedy = f"`{field}` is the document's {what}; a prefix can have any other field of its metadata"
            yield Problem(where, template, remedy)
            return
    if not isinstance(reader, JsonlReader | ParquetReader):
        return  # the data stage counts documents without
    try:
        fields = first_fields(reader) or set()
    except PerdureError:
        return  # told already
    if not fields or "metadata" in fields:  # which has fields of its own
        return
    for field in fields_of(template):
        if field not in fields and not (field == DATE and source.date_field):
            yield Problem(where, template, f"no document has the field `{field}`{near(field, fields)}")


def plain_places(recipe: Recipe, name: str, version: Version) -> Problems:
    """Places in a mixture without prefixes: of sources that have some."""
    for where, domain, member in named_places(version, f"versions.{name}.mixture"):
        source = recipe.sources.get(source_of(domain))
        if source is not None and not member.prefix and source.prefix is None:
            remedy = f"has no use: sources.{source_of(domain)} has no `prefix`"
            yield Problem(f"{where}.prefix", False, remedy)


CHECKS = (plain_places,)
