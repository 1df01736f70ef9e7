"""Checks of the dates of documents: a field that is there, and holds dates."""

from collections.abc import Iterator

from perdure.pipeline.checks.amounts import new_domains
from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.core.hints import near
from perdure.pipeline.data.read.rows import first_fields, first_values
from perdure.pipeline.plan.domains import parse
from perdure.pipeline.recipe import (
    HuggingFaceModel,
    JsonlReader,
    ParquetReader,
    Recipe,
    RowsReader,
    Source,
    Version,
)
from perdure.pipeline.recipe.periods import is_missing, no_date, period
from perdure.pipeline.recipe.remembered import parent_of, remembered

Problems = Iterator[Problem]
RANGE = "`web[2023-01..2023-06]`, either end may be left out"
"""How a range of dates is written."""


def date_field(name: str, source: Source) -> Problems:
    """The field with the dates: one of those that the first documents of some files have, with a date where it is filled."""
    where, field, reader = f"sources.{name}.date_field", source.date_field, source.reader
    if field is None:
        return
    if not isinstance(reader, RowsReader):
        yield Problem(
            where, field, f"documents of the reader `{reader.type}` have no fields beside their text"
        )
        return
    texts = [getattr(reader, option, None) for option in ("text_field", "id_field", "messages_field")]
    if field in texts:
        yield Problem(where, field, "should be another field than that of the text or the id")
        return
    if not isinstance(reader, JsonlReader | ParquetReader):
        return  # the data stage looks at every document
    try:
        fields = first_fields(reader)
        if fields and not fields & {field, "metadata"}:  # which has fields of its own
            yield Problem(where, field, f"no document has this field{near(field, fields)}")
            return
        for place, (value, metadata) in first_values(reader, (field, "metadata")):
            if value is None and isinstance(metadata, dict):
                value = metadata.get(field)
            if not is_missing(value) and period(_as_text(value)) is None and field not in reader.where:
                yield Problem(where, field, f"{place}: {no_date(field, value)}")
                return
    except PerdureError:
        return  # told already


def domain_dates(where: str, name: str, source: Source) -> Problems:
    """Checks that the dates in a name are dates, in their order, of a source whose documents have some."""
    domain = parse(name)
    if not domain.has_dates:
        return
    for text in (domain.since, domain.until):
        if text and period(text) is None:
            yield Problem(
                where, name, f"{text!r} is no date; a range is written {RANGE}; each is a year, month or day"
            )
            return
    if source.date_field is None:
        remedy = f"documents of `{domain.source}` have no dates; set sources.{domain.source}.date_field"
        yield Problem(where, name, remedy)
    if (days := domain.days) is not None and days.first > days.last:
        yield Problem(
            where, name, f"{domain.since} comes after {domain.until}; should be the other way round"
        )


def one_spelling(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that new data of the same dates is named as an ancestor named it: another name is read from its beginning."""
    if (parent := parent_of(version)) is None:
        return
    before = _spelt(recipe, parent)
    for domain in dict.fromkeys(new_domains(version)):
        if (other := before.get(_same(domain) or ())) is not None and other != domain:
            remedy = f"has the dates of `{other}`, which versions before read; name it alike, so that nothing is read twice"
            yield Problem(f"versions.{name}.mixture.sources.{domain}", domain, remedy)


@remembered
def _spelt(recipe: Recipe, name: str) -> dict[tuple, str]:
    """By what they hold, the new domains with dates of a version and its ancestors, as they were first named."""
    parent = parent_of(recipe.versions[name])
    found = dict(_spelt(recipe, parent)) if parent is not None else {}
    for domain in new_domains(recipe.versions[name]):
        if key := _same(domain):
            found.setdefault(key, domain)
    return found


def _same(name: str) -> tuple | None:
    """What a domain with dates holds, however they are written; None if it has none."""
    domain = parse(name)
    return domain.days and (domain.source, domain.language, domain.topic, domain.days)


def _as_text(value: object) -> object:
    """Dates of Parquet as the reader's metadata holds them."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def model_cutoff(recipe: Recipe) -> Problems:
    """A declared cut-off is of a model that has read something."""
    declared = recipe.evaluation.model_cutoff
    if isinstance(declared, str) and not isinstance(recipe.model, HuggingFaceModel):
        remedy = "has no use: versions start from random weights, which have seen no text"
        yield Problem("evaluation.model_cutoff", declared, remedy)
