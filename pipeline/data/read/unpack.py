"""Decompression of files in bounded memory, with errors for damaged or truncated ones."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from perdure.pipeline.core.errors import PerdureError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BUFFER = 1 << 20
"""Bytes read at a time."""
PIECE = 1 << 13
"""Unpacked bytes read at a time of a beginning: so many are lost where it stops."""
WINDOW_LOG = zstd.DecompressionParameter.window_log_max.bounds()[1]
"""Binary logarithm of the longest window of zstd, in bytes (`zstd --ultra --long=31`)."""


def suffix_of(path: str | Path) -> str | None:
    """The suffix that tells how a file is compressed, in lower case; None if it is not."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in OPENERS else None


def open_plain(path: str) -> BinaryIO:
    """Opens a file for reading, by its name through gzip, zstd, xz, bzip2 or LZ4; of all members or frames in it.

    Errors of damaged files are to be turned into one line by `damage_named`.
    """
    opener = OPENERS.get(suffix_of(path))
    return io.BufferedReader(opener(path), BUFFER) if opener else open(path, "rb", BUFFER)


@contextmanager
def damage_named(path: str) -> Iterator[None]:
    """Turns errors of decompressors into one that names the damaged file.

    Raises:
        PerdureError: In place of the errors of all of them.
    """
    try:
        yield
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise PerdureError(f"{path}: damaged ({error}); restore the file or remove it") from None


class Unpacked(io.RawIOBase):
    """A file of one or more compressed streams, and zeros after them (tapes and disk images pad with these).

    The standard library's classes for bzip2 and xz pass over whatever else follows the first stream.
    """

    def __init__(self, path: str | BinaryIO, new: Callable[[], Any]):
        self.file, self.new = open(path, "rb") if isinstance(path, str) else path, new  # noqa: SIM115
        self.stream, self.input = new(), b""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Unpacks as much as fits.

        Raises:
            EOFError: If the last stream is cut short.
        """
        while True:
            if self.stream.eof:
                self.input = (self.stream.unused_data or self.file.read(BUFFER)).lstrip(b"\0")
                if not self.input:
                    return 0
                self.stream = self.new()
            elif self.stream.needs_input and not self.input:
                self.input = self.file.read(BUFFER)
                if not self.input and self.file.tell():
                    raise EOFError("Truncated compressed stream")
                if not self.input:  # an empty file, which gzip takes as well
                    return 0
            data, self.input = self.stream.decompress(self.input, len(buffer)), b""
            if data:
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        """Closes the file."""
        self.file.close()
        super().close()


def _gzip(path: str | BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(path) if isinstance(path, str) else gzip.GzipFile(fileobj=path)


def _zstd(path: str | BinaryIO) -> Unpacked:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    return Unpacked(path, lambda: zstd.ZstdDecompressor(options=options))


OPENERS: dict[str | None, Callable[[str | BinaryIO], Any]] = {
    ".gz": _gzip,
    ".zst": _zstd,
    ".zstd": _zstd,
    ".xz": lambda path: Unpacked(path, lzma.LZMADecompressor),
    ".bz2": lambda path: Unpacked(path, bz2.BZ2Decompressor),
    ".lz4": lambda path: pa.input_stream(path, compression="lz4"),
}
"""Opens a compressed file, by its suffix."""


def unpacked_beginning(path: Path, size: int, most: int) -> tuple[int, int]:
    """Compressed and unpacked size of the beginning of a file, in bytes.

    Args:
        path: A file with one of the suffixes of `OPENERS`.
        size: Compressed bytes to read at most.
        most: Unpacked bytes to stop after.

    Raises:
        PerdureError: If it is damaged right from the start.
    """
    with path.open("rb") as file:
        packed = file.read(size)
    found = 0
    try:
        stream = OPENERS[suffix_of(path)](io.BytesIO(packed))
        while found < most and (data := stream.read(PIECE)):
            found += len(data)
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        # The rest is missing by design; what it has unpacked to by then counts.
        if not found:
            raise PerdureError(f"{path}: damaged ({error}); restore the file or remove it") from None
    return len(packed), found
