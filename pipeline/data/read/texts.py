"""Readers of small files of texts: JSON lines or plain text, by the file's name."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read.inputs import is_json_lines
from perdure.pipeline.data.read.rows import open_lines

ARRAY = "a JSON array; should be JSON lines, one object a line"


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers, from 1, and JSON values of the lines that are not blank.

    Raises:
        PerdureError: If a line is not JSON.
    """
    for number, line in _lines(path):
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            array = number == 1 and line.lstrip().startswith(b"[")
            raise PerdureError(
                f"{path}: {ARRAY if array else f'line {number} is not JSON ({error})'}"
            ) from None


def plain_lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not blank.

    Raises:
        PerdureError: If it is not text, or JSON.
    """
    first = True
    for _, line in _lines(path):
        if first and _is_json(path, line):
            raise PerdureError(
                f"{path}: begins like JSON, but is not named so; should be JSON lines, one object a line, and `.jsonl`"
            )
        first = False
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise PerdureError(f"{path}: not UTF-8 text; name a text file or JSON lines")
        yield text


def _is_json(path: Path, first: bytes) -> bool:
    """Whether a file's first line is a JSON object or array, or begins one that is the whole file."""
    if not first.lstrip().startswith((b"{", b"[")):
        return False
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError as error:
        if error.pos < len(error.doc):
            return False
        try:
            orjson.loads(b"".join(line for _, line in _lines(path)))
        except orjson.JSONDecodeError:
            return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(open_lines(str(path)), 1):
        assert line is not None  # no line is too long where no bound is given
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield number, line


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
