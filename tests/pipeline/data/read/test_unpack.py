"""Compressed files are read whole, or called damaged; never in part."""

import struct

import pytest
import zstandard

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read.rows import open_lines
from tests.pipeline.data.read.packed import PACK

LINES = b"".join(b'{"text": "%d"}\n' % (number * number) for number in range(4000))


def read(path, content: bytes) -> bytes:
    path.write_bytes(content)
    return b"".join(open_lines(str(path)))


@pytest.mark.parametrize("suffix", PACK)
def test_all_streams_of_a_file_are_read(tmp_path, suffix):
    path, pack = tmp_path / f"a.jsonl{suffix}", PACK[suffix]
    packed = pack(LINES)
    assert read(path, packed) == LINES
    assert read(path, packed + pack(b"") + packed) == 2 * LINES
    assert read(path, b"") == b""


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_zeros_after_a_stream_are_padding(tmp_path, suffix):
    packed = PACK[suffix](LINES)
    assert read(tmp_path / f"a{suffix}", packed + bytes(5000)) == LINES
    assert read(tmp_path / f"a{suffix}", packed + bytes(8) + packed) == 2 * LINES


@pytest.mark.parametrize("suffix", [suffix for suffix in PACK if suffix])
def test_damage_is_named(tmp_path, suffix):
    path, packed = tmp_path / f"a{suffix}", PACK[suffix](LINES)
    damages = [
        packed[:-5],
        packed[: len(packed) // 2],
        packed + packed[:40],
        packed + b"garbage, and more of it",
        LINES,
    ]
    for content in damages:
        with pytest.raises(PerdureError, match=rf"a{suffix}: damaged \(.*\); restore the file or remove it"):
            read(path, content)


def test_windows_and_frames_of_zstd(tmp_path):
    options = zstandard.ZstdCompressionParameters.from_level(3, window_log=30)
    compressor = zstandard.ZstdCompressor(
        compression_params=options
    ).compressobj()  # of a length that it is not told
    packed = compressor.compress(LINES) + compressor.flush()
    assert zstandard.get_frame_parameters(packed).window_size == 1 << 30
    assert read(tmp_path / "a.zst", packed) == LINES
    skippable = struct.pack("<II", 0x184D2A50, 3) + b"abc"
    assert read(tmp_path / "a.zst", skippable + packed + skippable + packed) == 2 * LINES


def test_lines_that_are_too_long(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"12345\n123456\n" + b"x" * 3_000_000 + b"\n\n12345")
    assert list(open_lines(str(path), 5)) == [b"12345\n", None, None, b"\n", b"12345"]
    assert list(open_lines(str(path), 5, whole=False))[:2] == [b"12345\n", None]
    assert len(list(open_lines(str(path)))[2]) == 3_000_001
