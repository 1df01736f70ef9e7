"""Estimates from samples of a source's files: tokens per byte, and unpacked sizes."""

from functools import lru_cache
from pathlib import Path

import orjson
import pyarrow.parquet as parquet

from perdure.pipeline.data.read.inputs import input_files
from perdure.pipeline.data.read.rows import first_lines
from perdure.pipeline.data.read.unpack import suffix_of, unpacked_beginning
from perdure.pipeline.recipe import JsonlReader, Reader, TextReader

COMPRESSION = 4
"""How much longer compressed text is once unpacked, where a sample cannot be read."""
PACKED_BYTES, UNPACKED_BYTES = 1 << 22, 1 << 26
"""Bytes of a compressed file that are unpacked to see how many they are, and the most that they may become.
The last block, 900,000 bytes of text in bzip2, is lost where they stop in it."""
FILES, LINES, LINE_BYTES = 4, 25, 1 << 14
"""Files that are looked at, over the whole list, lines of each, and bytes of a line beyond which it is passed over."""


def tokens_per_byte(reader: Reader, tokenizer: Path) -> float | None:
    """Tokens per byte of unpacked files; None for other formats, or if a file cannot be read.

    Args:
        reader: Of JSON lines or text.
        tokenizer: A `tokenizer.json`.
    """
    if not isinstance(reader, JsonlReader | TextReader) or not tokenizer.is_file():
        return None
    try:
        folder, files = input_files(reader)
        chosen = files[:: -(-len(files) // FILES)]
        lines = [
            line
            for file in chosen
            for line in first_lines(Path(folder, file), LINES)
            if len(line) <= LINE_BYTES
        ]
        texts = [_text(reader, line) for line in lines]
        tokens = sum(
            len(encoding.ids) for encoding in _load(tokenizer).encode_batch(texts, add_special_tokens=False)
        )
    except (
        Exception
    ):  # `check` names what is wrong with files and tokenizers; the library raises bare exceptions
        return None
    return tokens / sum(map(len, lines)) if tokens else None


def unpacked_bytes(reader: Reader, files: list[Path]) -> int:
    """Estimated unpacked size of a source's files, in bytes.

    Of Parquet it is the text's column alone, by the footers. `COMPRESSION` is assumed where a sample cannot be read.

    Args:
        reader: Of the files.
        files: All of them.
    """
    kinds: dict[bool, list[Path]] = {}
    for file in files:
        kinds.setdefault(suffix_of(file) is not None or file.suffix.lower() == ".parquet", []).append(file)
    plain, packed = (kinds.get(kind, []) for kind in (False, True))
    total = sum(file.stat().st_size for file in plain)
    if packed:
        sizes = [_unpacked(reader, file) for file in packed[:: -(-len(packed) // FILES)]]
        before, after = (sum(size) for size in zip(*sizes))
        total += round(sum(file.stat().st_size for file in packed) * (after / before if before else 1))
    return total


def _unpacked(reader: Reader, file: Path) -> tuple[int, float]:
    """Bytes of a file, or of its beginning, and how many they are unpacked."""
    try:
        if suffix_of(file):
            return unpacked_beginning(file, PACKED_BYTES, UNPACKED_BYTES)
        metadata, text = parquet.read_metadata(file), getattr(reader, "text_field", None)
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        columns = (group.column(place) for group in groups for place in range(group.num_columns))
        found = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text)
        return file.stat().st_size, found
    except Exception:  # as above
        return file.stat().st_size, file.stat().st_size * COMPRESSION


def _text(reader: JsonlReader | TextReader, line: bytes) -> str:
    if isinstance(reader, TextReader):
        return line.decode()
    return str(orjson.loads(line).get(reader.text_field) or "")


@lru_cache
def _load(tokenizer: Path):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer))
