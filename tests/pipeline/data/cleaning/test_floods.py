"""Files that unpack to far more than they are take bounded memory, in a process of their own."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.data.read.packed import PACK

MB = 1 << 20
GOOD = b'{"text": "good"}\n'
PROGRAM = """
import json, resource, sys
from unittest.mock import patch
from perdure.pipeline import recipe
from perdure.pipeline.data.read import readers, reading, rows
from perdure.pipeline.recipe import Source

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

found = {}
for path in sys.argv[1:]:
    kind = "parquet" if path.endswith("parquet") else "text" if path.endswith("txt") else "jsonl"
    source = Source.model_validate({"reader": {"type": kind, "path": path}})
    before = peak()
    with (
        patch.object(readers, "LONGEST", 2 << 20),
        patch.object(reading, "LONGEST", 2 << 20),
        patch.object(rows, "LONGEST", 2 << 20),
        patch.object(rows, "BATCH", 2 << 20),
    ):
        if kind != "text":
            rows.first_fields(source.reader)
        readers.JsonLines.longest = 2 << 20
        step = readers.reader_step(source)
        texts = [len(document.text) for document in step.run()]
    counts = {key: int(value.total) for key, value in step.stats.stats.items() if key[:3] in ("in", "dro")}
    found[path.rsplit("/")[-1]] = [texts[:5], counts, peak() - before]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By file: lengths of the first documents, counts, and by how many MiB the process grew."""
    folder = tmp_path_factory.mktemp("floods")
    for suffix, pack in PACK.items():
        if suffix not in ("", ".ZSTD"):
            size = {".xz": 40, ".bz2": 40}.get(suffix, 96)
            (folder / f"a.jsonl{suffix}").write_bytes(pack(GOOD + bytes(size * MB) + b"\n" + GOOD))
    (folder / "b.txt").write_bytes(b"x" * (64 * MB))
    # Rows that compress well, cells that are too long, and numbers that stand for one long string.
    long = "x" * (4 * MB)
    pq.write_table(
        pa.table({"text": ["y" * MB] * 100}), folder / "c.parquet", use_dictionary=False, compression="zstd"
    )
    pq.write_table(pa.table({"text": [long, "good", long]}), folder / "d.parquet", row_group_size=1)
    indices = pa.array([0, 1] * 200, pa.int32())
    repeated = pa.DictionaryArray.from_arrays(indices, pa.array([long, "good"]))
    pq.write_table(
        pa.table({"text": repeated}),
        folder / "e.parquet",
        dictionary_pagesize_limit=1 << 30,
        store_schema=False,
    )
    paths = sorted(map(str, folder.iterdir()))
    done = subprocess.run([sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("suffix", [suffix for suffix in PACK if suffix not in ("", ".ZSTD")])
def test_a_line_that_is_most_of_an_archive(found, suffix):
    texts, counts, grown = found[f"a.jsonl{suffix}"]
    assert texts == [4, 4] and counts == {"in": 3, "dropped:line_too_long": 1} and grown < 32


def test_a_text_file(found):
    assert found["b.txt"][:2] == [[], {"in": 1, "dropped:file_too_long": 1}] and found["b.txt"][2] < 16


def test_rows_of_parquet(found):
    texts, counts, grown = found["c.parquet"]
    assert texts == [MB] * 5 and counts == {"in": 100} and grown < 64
    texts, counts, _ = found["d.parquet"]
    assert texts == [4] and counts == {"in": 3, "dropped:cell_too_long": 2}
    texts, counts, grown = found["e.parquet"]
    assert texts == [4] * 5 and counts == {"in": 400, "dropped:cell_too_long": 200} and grown < 64
