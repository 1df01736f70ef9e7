"""Numbers for people: tokens, durations, bytes."""

import pytest

from perdure.pipeline.core.formats import format_bytes, format_duration, format_memory, format_tokens


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (999_999, "1M"),
        (1_250_000, "1.25M"),
        (3 * 10**9, "3B"),
    ],
)
def test_token_counts_in_words(count, words):
    assert format_tokens(count) == words


def test_durations_read_like_clocks():
    assert [format_duration(seconds) for seconds in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1 kB"),
        (2_500_000, "2.5 MB"),
        (64 << 20, "67.1 MB"),
        (20e9, "20 GB"),
        (999_600_000_000, "1 TB"),
        (1.5e15, "1.5e+03 TB"),
    ],
)
def test_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(512, "512.0 B"), (1536, "1.5 KiB"), (80 * 2**30, "80.0 GiB"), (3 * 2**40, "3.0 TiB")],
)
def test_memory(count, text):
    assert format_memory(count) == text
