"""Templates of what stands before a document's text: `{field}` of its metadata."""

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any
from urllib.parse import urlsplit

from perdure.pipeline.recipe.periods import is_missing, period

URL, DATE = "url", "date"
"""Fields of which the prefix has the host alone, and the date as it was normalised."""
_NAME, _SPEC = re.compile(r"[^\s.\[\]{}!:]+"), re.compile(r"(\.[1-9]\d{0,2})?")


def fields_of(template: str) -> list[str]:
    """The metadata fields that a template names.

    Raises:
        ValueError: If it is no template, or names none.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"should be a text with fields in braces, as in `date: {{date}}`: {error}") from None
    found = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not _NAME.fullmatch(name) or not _SPEC.fullmatch(spec or "") or conversion:
            whole = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(
                f"`{{{whole}}}` should be `{{field}}`, or `{{field:.4}}` for its first four characters; `{{{{` is a brace"
            )
        found.append(name)
    if not found:
        raise ValueError("should name a field of the metadata, as in `date: {date}`")
    return list(dict.fromkeys(found))


def rendered(template: str, metadata: Mapping[str, Any], date_field: str | None) -> str | None:
    """A document's prefix; None if it lacks a field.

    Args:
        template: See `fields_of`.
        metadata: The document's.
        date_field: The field with its date, if it has one: what `{date}` is, too.
    """
    values = {name: _value(name, metadata, date_field) for name in fields_of(template)}
    return None if None in values.values() else template.format_map(values)


def _value(name: str, metadata: Mapping[str, Any], date_field: str | None) -> str | None:
    """The text of a field; None if the document does not have it."""
    if date_field is not None and name in (DATE, date_field):
        found = period(metadata.get(date_field))
        return None if found is None else str(found)
    value = metadata.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or is_missing(value):
        return None
    return _host(str(value)) if name == URL else str(value)


def _host(url: str) -> str | None:
    """The host of an address, without port and user."""
    try:
        return urlsplit(url if "//" in url else f"//{url}").hostname or None
    except ValueError:
        return None
