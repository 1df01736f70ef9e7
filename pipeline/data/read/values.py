"""Values of JSON lines and Arrow as text and metadata; one odd field stops neither a document nor a run."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
import pyarrow as pa

SURROGATE = re.compile("[\ud800-\udfff]")
INVALID = re.compile("[\udc80-\udcff]")
"""What stands for the invalid bytes of a line that is not UTF-8 (PEP 383)."""
DEPTH = 200
"""Levels of nesting that metadata keeps; orjson writes 254."""


def parse_json(line: bytes) -> Any:
    """Parses a line of JSON, with lone surrogates, NaN and numbers of any size, which JSON itself excludes.

    Bytes that are not UTF-8 become the characters of `INVALID`.

    Raises:
        ValueError: If the line is no JSON, or RecursionError if it is nested too deeply.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line.decode(errors="surrogateescape"), parse_int=_number, parse_float=_number)


def _number(text: str) -> float | int | str:
    """A number as orjson reads it; as it stands if a float cannot hold it."""
    if len(text) <= 20 and text.lstrip("-").isdigit() and -(2**63) <= (whole := int(text)) < 2**64:
        return whole
    number = float(text)
    return number if abs(number) != float("inf") else text


def as_json(metadata: dict) -> dict:
    """Metadata as JSON holds it: dates and the like as text, NaN as null.

    Lone surrogates go, as they do from texts; what is nested more than `DEPTH` levels deep becomes null.
    """
    try:
        # Within lists, since those who write the document later put it inside of others.
        return orjson.loads(_dumps([[[metadata]]]))[0][0][0]
    except TypeError:
        return orjson.loads(_dumps(_tidy(metadata, DEPTH)))


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS)


def _text(value: Any) -> str:
    return without_surrogates(str(value))


def without_surrogates(text: str) -> str:
    """A text as UTF-8 can hold it."""
    return SURROGATE.sub("", text)


def _tidy(value: Any, depth: int) -> Any:
    match value:
        case str():
            return without_surrogates(value)
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
        case Mapping() | list() | tuple() if depth == 0:
            return None
        case Mapping():
            return {without_surrogates(str(key)): _tidy(entry, depth - 1) for key, entry in value.items()}
        case list() | tuple():
            return [_tidy(entry, depth - 1) for entry in value]
    return value


def as_python(scalar: pa.Scalar) -> Any:
    """An Arrow value as Python's; as text where Python has none, such as dates before the year 1 or unknown time zones.

    Bytes of strings that are not UTF-8 become replacement characters.
    """
    # Libraries of time zones and of dates raise errors of their own.
    with suppress(Exception):
        return scalar.as_py()
    if isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
        return as_python(scalar.value)
    if isinstance(scalar, pa.MapScalar):
        return [(as_python(entry[0]), as_python(entry[1])) for entry in scalar.values]
    if isinstance(scalar, pa.ListScalar):  # of every kind
        return [as_python(entry) for entry in scalar.values]
    if isinstance(scalar, pa.StructScalar):
        return {
            field.name: as_python(scalar[number]) for number, field in enumerate(scalar.type)
        }  # of several fields with one name, the last
    if isinstance(scalar, pa.BinaryScalar):
        return scalar.as_buffer().to_pybytes().decode(errors="replace")
    if isinstance(scalar, pa.TimestampScalar):  # as UTC, whatever the zone
        scalar = pa.scalar(scalar.value, pa.timestamp(scalar.type.unit))
    with suppress(pa.ArrowException):
        return scalar.cast(pa.string()).as_py()
    return str(getattr(scalar, "value", None))


def text_buffer(scalar: pa.Scalar) -> pa.Buffer | None:
    """The bytes of a text, stored as any kind of string or of binary, in a dictionary or not; None if it is none."""
    while isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
        scalar = scalar.value
    return scalar.as_buffer() if isinstance(scalar, pa.BinaryScalar) and scalar.is_valid else None
