"""Lines and rows of files as they are on disk, compressed or not, in bounded memory; a damaged file is named."""

import codecs
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read.inputs import input_files
from perdure.pipeline.data.read.unpack import BUFFER, damage_named, open_plain
from perdure.pipeline.data.read.values import parse_json

LOOKED_AT, FIRST_LINES = 8, 100
"""Files, and lines of each, that are looked at before anything starts."""
LONGEST = 1 << 26
"""Bytes of the longest line, cell or text file that is read as a document: 64 MiB, ten times the longest novel."""
INDEX = 5
"""Bytes of a number of Parquet that stands for a string, at most."""
BATCH = 1 << 26
"""Bytes of rows that are read at a time, about."""


def first_fields(reader: recipe.JsonlReader | recipe.ParquetReader) -> set[str] | None:
    """Names of the fields that the first documents of some files have; None if not one of their lines is an object.

    Raises:
        PerdureError: If a file is damaged, no Parquet, or in UTF-16.
    """
    folder, files = input_files(reader)
    paths = [Path(folder, file) for file in files[:: max(1, len(files) // LOOKED_AT)]]
    if isinstance(reader, recipe.ParquetReader):
        return {name for path in paths for name in _schema(path).names}
    fields: set[str] = set()
    objects = others = 0
    for path in paths:
        for number, line in enumerate(first_lines(path, FIRST_LINES)):
            if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise PerdureError(f"{path}: UTF-16; should be UTF-8: convert it (iconv -f UTF-16 -t UTF-8)")
            try:
                fields |= parse_json(line.removeprefix(codecs.BOM_UTF8)).keys()
                objects += 1
            except (ValueError, RecursionError, AttributeError):
                others += bool(line.strip())
    return None if others and not objects else fields


def first_lines(path: Path, count: int) -> Iterator[bytes]:
    """The first lines of a file, so many, up to one that is too long to be a document."""
    for line in islice(open_lines(str(path), LONGEST, whole=False), count):
        if line is None:
            return
        yield line


def first_values(
    reader: recipe.JsonlReader | recipe.ParquetReader, fields: tuple[str | None, ...]
) -> Iterator[tuple[str, list]]:
    """Values of some fields in the first rows of some files, each with the file and number of the row, from 1.

    Lines that are no objects are passed over; what a row does not have is None.

    Raises:
        PerdureError: If a file is damaged, or no Parquet.
    """
    folder, files = input_files(reader)
    for path in (Path(folder, file) for file in files[:: max(1, len(files) // LOOKED_AT)]):
        for number, row in enumerate(_first_rows(path, isinstance(reader, recipe.ParquetReader)), 1):
            if isinstance(row, dict):
                yield f"{path.name}, row {number}", [row.get(field) if field else None for field in fields]


def _first_rows(path: Path, is_parquet: bool) -> Iterator[Any]:
    if is_parquet:
        with path.open("rb") as file:
            for batch in open_batches(file, str(path), FIRST_LINES):
                yield from batch.slice(0, FIRST_LINES).to_pylist()
                return
        return
    for line in first_lines(path, FIRST_LINES):
        try:
            yield parse_json(line.removeprefix(codecs.BOM_UTF8))
        except (ValueError, RecursionError):
            yield None  # the reader counts it


def _schema(path: Path) -> pa.Schema:
    with path.open("rb") as file:
        return _parquet(file, str(path)).schema_arrow


def _parquet(file: BinaryIO, path: str) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file, buffer_size=BUFFER)
        return pq.ParquetFile(file, buffer_size=BUFFER, read_dictionary=_dictionaries(parquet))
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise PerdureError(f"{path}: not Parquet ({error})") from None


def _dictionaries(parquet: pq.ParquetFile) -> list[str]:
    """Columns of strings that stay dictionaries of them.

    Where all rows are numbers, a few bytes may stand for the same long string a million times. And those that were
    dictionaries when they were written would be looked at for UTF-8 as a whole.
    """
    metadata, schema = parquet.metadata, parquet.schema_arrow
    found = {field.name for field in schema if pa.types.is_dictionary(field.type)}
    for number in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(number).column(place)
            if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
                numbers = column.total_compressed_size - (
                    column.data_page_offset - column.dictionary_page_offset
                )
                if column.path_in_schema in schema.names and numbers <= INDEX * column.num_values:
                    found.add(column.path_in_schema)
    return sorted(found)


def open_batches(file: BinaryIO, path: str, size: int) -> Iterator[pa.RecordBatch]:
    """Rows of a Parquet file, `size` at a time, or fewer where they are long.

    Raises:
        PerdureError: If it is none, or damaged.
    """
    parquet = _parquet(file, path)
    try:
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            longest = BATCH * group.num_rows // max(group.total_byte_size, 1)
            yield from parquet.iter_batches(min(size, max(longest, 1)), row_groups=[number])
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise PerdureError(f"{path}: damaged ({error}); restore the file or remove it") from None


def open_lines(path: str, longest: int | None = None, whole: bool = True) -> Iterator[bytes | None]:
    """Lines of a file, plain or compressed, with their ends.

    Args:
        path: The file.
        longest: Bytes above which a line is None instead; default: no bound.
        whole: Whether to go on after such a line, which may be most of the file.

    Raises:
        PerdureError: If a compressed file is damaged or cut short.
    """
    limit = -1 if longest is None else longest + 1
    with damage_named(path), open_plain(path) as lines:
        while line := lines.readline(limit):
            if longest is None or len(line.removesuffix(b"\n")) <= longest:
                yield line
                continue
            yield None
            while whole and line and not line.endswith(b"\n"):
                line = lines.readline(BUFFER)


def merge_tables(parts: list[Path], merged: Path) -> None:
    """Concatenates Parquet files and removes them; once `merged` exists they are not looked at again."""
    if not merged.exists():
        temporary = merged.with_suffix(".tmp")
        with pq.ParquetWriter(temporary, pq.read_schema(parts[0])) as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches():
                    writer.write_batch(batch)
        temporary.replace(merged)
    for part in parts:
        part.unlink(missing_ok=True)
