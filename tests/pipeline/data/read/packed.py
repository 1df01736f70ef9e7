"""Ways to compress a file."""

import bz2
import gzip
import lzma

import pyarrow as pa
import zstandard

PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
    ".ZSTD": zstandard.compress,
    ".lz4": lambda data: pa.compress(data, "lz4", asbytes=True),
    "": bytes,
}
