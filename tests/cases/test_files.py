"""Files that version 0.1 read wrongly, through the command line as their user would meet them."""

import gzip
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from tests.cases.small import Case, english, write_lines, write_tokenizer

pytestmark = pytest.mark.slow


# ------------------------------------------------------------------------------------ no document stalls or floods


def write_parquet(directory: Path, **columns: pa.Array) -> None:
    texts = [english(number) for number in range(120)]
    directory.mkdir()
    table = pa.table({"id": [str(number) for number in range(120)], "text": texts} | columns)
    parquet.write_table(table, directory / "a.parquet")


def as_parquet(case: Case, **columns: pa.Array) -> Case:
    write_tokenizer(case.directory / "tok")
    write_parquet(case.directory / "in", **columns)
    case.tree["sources"]["a"]["reader"] = {"type": "parquet", "path": "in"}
    return case


def test_07_parquet_string_views(case):
    texts = pa.array([english(number) for number in range(120)], pa.string_view())
    assert "120 documents in, 120 out" in as_parquet(case, text=texts).data()


def test_08_parquet_dates_beyond_the_year_9999(case):
    dates = pa.array([3_000_000 + number for number in range(120)], pa.int32()).cast(pa.date32())
    assert "120 documents in, 120 out" in as_parquet(case, date=dates).data()


def test_10_parquet_times_in_zones_that_do_not_exist(case):
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    times = pa.array([moment] * 120, pa.timestamp("us", "UTC")).cast(pa.timestamp("us", "Mars/Olympus"))
    assert "120 documents in, 120 out" in as_parquet(case, at=times).data()


def test_11_hidden_files_and_editors_copies(tokenized):
    texts = (tokenized.directory / "in" / "a.jsonl").read_text()
    hidden = tokenized.directory / "in" / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "a-checkpoint.jsonl").write_text(texts)
    (tokenized.directory / "in" / "._a.jsonl").write_bytes(
        b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xb0\xff"
    )
    assert "120 documents in, 120 out" in tokenized.data()


def test_12_files_of_other_names_beside_those_that_are_read(case):
    write_tokenizer(case.directory / "tok")
    directory = case.directory / "in"
    for number, name in enumerate(("a.jsonl", "b.json", "c.JSONL", "d.ndjson")):
        write_lines(directory / name, [english(30 * number + place) for place in range(30)])
    (directory / "b.json.gz").write_bytes(gzip.compress((directory / "b.json").read_bytes()))
    (directory / "b.json").unlink()
    checked = "".join(case.perdure("check")[1:])
    said = case.data()
    unread = [name for name in ("b.json.gz", "c.JSONL", "d.ndjson") if name in checked and name in said]
    assert f"{120 - 30 * len(unread)} documents in" in said


def test_13_zstandard_with_a_long_window(case):
    write_tokenizer(case.directory / "tok")
    write_lines(case.directory / "a.jsonl", [english(number) for number in range(120)])
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    (case.directory / "in").mkdir()
    packer = zstandard.ZstdCompressor(
        compression_params=parameters
    ).compressobj()  # without a size, which bounds the window
    packed = packer.compress((case.directory / "a.jsonl").read_bytes()) + packer.flush()
    (case.directory / "in" / "a.jsonl.zst").write_bytes(packed)
    assert "120 documents in, 120 out" in case.data()


def test_14_lone_surrogates_and_nan(case):
    write_tokenizer(case.directory / "tok")
    lines = [
        f'{{"text": "{english(number)} \\ud83d"}}\n'
        if number % 2
        else f'{{"text": "{english(number)}", "score": NaN}}\n'
        for number in range(120)
    ]
    (case.directory / "in").mkdir()
    (case.directory / "in" / "a.jsonl").write_text("".join(lines))
    assert "120 documents in, 120 out" in case.data()


def test_20_one_corpus_under_two_names(tokenized):
    (tokenized.directory / "link").symlink_to("in")
    again = tokenized.tree["sources"]["a"] | {"reader": {"type": "jsonl", "path": "link"}}
    tokenized.tree["sources"]["b"] = again
    tokenized.tree["versions"]["v"]["mixture"]["sources"]["b"] = {}
    for said in ("".join(tokenized.perdure("check")[1:]), tokenized.data()):
        assert re.search(r"(?i)\bsame\b|twice", said), said
