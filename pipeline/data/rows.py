"""Lines and rows of files as they are on disk, compressed or not; a damaged file is named."""

import codecs
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from perdure.pipeline import recipe
from perdure.pipeline.data.inputs import input_files
from perdure.pipeline.errors import PerdureError

LOOKED_AT, FIRST_LINES = 8, 100
"""Files, and lines of each, that are looked at before anything starts."""
BUFFER = 1 << 20
"""Bytes read at a time."""


def first_fields(reader: recipe.JsonlReader | recipe.ParquetReader) -> set[str] | None:
    """Names of the fields that the first documents of some files have; None if not one of their lines is an object.

    Raises:
        PerdureError: If a file is damaged, or no Parquet.
    """
    folder, files = input_files(reader)
    paths = [Path(folder, file) for file in files[:: max(1, len(files) // LOOKED_AT)]]
    if isinstance(reader, recipe.ParquetReader):
        return {name for path in paths for name in _schema(path).names}
    fields: set[str] = set()
    objects = others = 0
    for path in paths:
        for line in islice(open_lines(str(path)), FIRST_LINES):
            try:
                fields |= orjson.loads(line.removeprefix(codecs.BOM_UTF8)).keys()
                objects += 1
            except (orjson.JSONDecodeError, AttributeError):
                others += bool(line.strip())
    return None if others and not objects else fields


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise PerdureError(f"{path}: not Parquet ({error})") from None


def open_batches(file: BinaryIO, path: str, size: int) -> Iterator[pa.RecordBatch]:
    """Rows of a Parquet file.

    Raises:
        PerdureError: If it is none, or damaged.
    """
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise PerdureError(f"{path}: not Parquet ({error})") from None
    try:
        yield from parquet.iter_batches(batch_size=size)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise PerdureError(f"{path}: damaged ({error}); restore the file or remove it") from None


def open_lines(path: str) -> Iterator[bytes]:
    """Lines of a plain, gzip or zstd file.

    Raises:
        PerdureError: If a compressed file is damaged or cut short, which other zstd readers pass over.
    """
    compression = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix)
    with pa.input_stream(path, compression=compression) as stream:
        lines = io.BufferedReader(stream, BUFFER)
        while (line := _next_line(lines, path)) is not None:
            yield line


def _next_line(lines: Iterator[bytes], path: str) -> bytes | None:
    try:
        return next(lines, None)
    except OSError as error:
        if error.errno is not None:
            raise
        raise PerdureError(f"{path}: damaged ({error}); restore the file or remove it") from None
