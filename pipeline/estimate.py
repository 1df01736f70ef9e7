"""Tokens to a byte of a source's files, from a sample and the tokenizer: scripts and formats differ too much for one number."""

from functools import lru_cache
from pathlib import Path

import orjson

from perdure.pipeline.data.inputs import input_files
from perdure.pipeline.data.rows import first_lines
from perdure.pipeline.recipe import JsonlReader, Reader, TextReader

FILES, LINES, LINE_BYTES = 4, 25, 1 << 14
"""Files that are looked at, over the whole list, lines of each, and bytes of a line beyond which it is passed over."""


def tokens_per_byte(reader: Reader, tokenizer: Path) -> float | None:
    """Tokens to a byte as unpacked files have them; None for other formats, or where a file cannot be read.

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


def _text(reader: JsonlReader | TextReader, line: bytes) -> str:
    if isinstance(reader, TextReader):
        return line.decode()
    return str(orjson.loads(line).get(reader.text_field) or "")


@lru_cache
def _load(tokenizer: Path):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer))
