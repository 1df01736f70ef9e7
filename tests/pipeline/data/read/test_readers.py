import gzip
import json
import tempfile
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read import readers
from perdure.pipeline.data.read.reading import share
from perdure.pipeline.data.read.rows import open_lines
from tests.pipeline.data.read.source import read

BAD = [
    (b'{"text": "first", "id": 7, "topic": "x", "metadata": {"url": "u"}}', None),
    (b'{"text": "cut off', "broken_json"),
    (b"[1, 2]", "not_an_object"),
    (b'{"text": "bad \xff byte"}', "invalid_utf8"),
    (b"", None),
    (b'{"id": "nothing"}', "no_text"),
    (b'{"text": 5}', "no_text"),
    (b'{"text": " \\n "}', "empty"),
    (b'{"text": "last \\u00e4"}', None),
]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_bad_lines_are_counted_and_the_rest_is_read(tmp_path, suffix):
    content = b"\n".join(line for line, _ in BAD) + b"\n"
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(suffix[6:], bytes)
    (tmp_path / f"deep{suffix}").write_bytes(pack(content))
    documents, counts = read({"type": "jsonl", "path": str(tmp_path)})
    assert [(document.id, document.text) for document in documents] == [
        ("7", "first"),
        (f"deep{suffix}/8", "last ä"),
    ]
    assert documents[0].metadata == {"url": "u", "topic": "x"}
    reasons = Counter(f"dropped:{reason}" for _, reason in BAD if reason)
    assert counts == reasons + Counter({"in": 8})


def test_all_frames_of_a_zstd_file_are_read(tmp_path):
    frames = [zstandard.compress(b'{"text": "%d"}\n' % number) for number in range(3)]
    (tmp_path / "x.jsonl.zst").write_bytes(b"".join(frames))
    assert [document.text for document in read({"type": "jsonl", "path": str(tmp_path)})[0]] == [
        "0",
        "1",
        "2",
    ]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_truncated_archive_is_an_error(tmp_path, pack):
    lines = b"".join(b'{"text": "%d"}\n' % (number * number) for number in range(9999))
    suffix = "gz" if pack is gzip.compress else "zst"
    (tmp_path / f"x.jsonl.{suffix}").write_bytes(pack(lines)[:-100])
    with pytest.raises(PerdureError, match=rf"x.jsonl.{suffix}: damaged"):
        read({"type": "jsonl", "path": str(tmp_path)})


@given(
    st.lists(
        st.lists(st.sampled_from([line for line, _ in BAD]) | st.binary(max_size=12), max_size=8),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 5),
)
def test_every_document_is_read_once_or_dropped_with_a_reason(files, tasks):
    with tempfile.TemporaryDirectory() as folder:
        for number, lines in enumerate(files):
            Path(folder, f"{number}.jsonl").write_bytes(b"\n".join(lines))
        documents, counts = read({"type": "jsonl", "path": folder}, tasks)
        alone, counts_alone = read({"type": "jsonl", "path": folder}, 1)
    lines = sum(bool(line.strip()) for lines in files for line in b"\n".join(lines).split(b"\n"))
    dropped = sum(count for key, count in counts.items() if key.startswith("dropped:"))
    assert counts["in"] == lines == len(documents) + dropped
    assert counts == counts_alone
    assert sorted((doc.id, doc.text) for doc in documents) == sorted((doc.id, doc.text) for doc in alone)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.integers(1, 20))
def test_few_files_are_shared_among_tasks_by_their_sizes(sizes, more):
    tasks = len(sizes) + more
    found = [share(sizes, task, tasks) for task in range(tasks)]
    parts = Counter(number for number, _, _ in found)
    assert sorted(found) == [(n, part, parts[n]) for n in range(len(sizes)) for part in range(parts[n])]
    # No task could have been left out of one file and given to another to lower the most that any task does.
    most = max(size / parts[number] for number, size in enumerate(sizes))
    assert all(most <= size / (parts[number] - 1) for number, size in enumerate(sizes) if parts[number] > 1)


def test_a_task_opens_one_of_few_files(tmp_path, monkeypatch):
    for number, lines in enumerate((90, 30)):
        (tmp_path / f"{number}.jsonl").write_text('{"text": "x"}\n' * lines)
    opened = []
    monkeypatch.setattr(
        readers, "open_lines", lambda path, *longest: opened.append(path[-7:]) or open_lines(path, *longest)
    )
    documents, _ = read({"type": "jsonl", "path": str(tmp_path)}, tasks=4)
    assert opened == ["0.jsonl"] * 3 + ["1.jsonl"] and len({document.id for document in documents}) == 120


@pytest.mark.parametrize("tasks", [1, 3])
def test_parquet(tmp_path, tasks):
    texts = pa.array([b"one", b"tw\xff", None, b"four", b"five"]).cast(pa.binary()).view(pa.string())
    table = pa.table({"body": texts, "topic": ["a", "b", "c", "d", "e"], "blob": [b"\xff"] * 5})
    pq.write_table(table, tmp_path / "x.parquet")
    documents, counts = read({"type": "parquet", "path": str(tmp_path), "text_field": "body"}, tasks)
    found = sorted((document.text, document.id, document.metadata["topic"]) for document in documents)
    assert found == [("five", "x.parquet/4", "e"), ("four", "x.parquet/3", "d"), ("one", "x.parquet/0", "a")]
    assert counts == {"in": 5, "dropped:invalid_utf8": 1, "dropped:no_text": 1}


def test_damaged_parquet_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{number}" * 50 for number in range(500)]}), path)
    content = bytearray(path.read_bytes())
    content[100:1000] = bytes(900)
    path.write_bytes(content)
    with pytest.raises(PerdureError, match=r"a.parquet: damaged \(.*\); restore the file or remove it"):
        read({"type": "parquet", "path": str(path)}, 1)


def test_metadata_that_json_does_not_know_becomes_text(tmp_path):
    table = pa.table({"text": ["a"], "price": [Decimal("1.50")], "day": [date(2024, 5, 1)], "raw": [[b"x"]]})
    pq.write_table(table, tmp_path / "x.parquet")
    (document,) = read({"type": "parquet", "path": str(tmp_path)})[0]
    assert document.metadata == {"price": "1.50", "day": "2024-05-01", "raw": ["b'x'"]}


def test_text_files(tmp_path):
    for name, content in {
        "a.txt": b"A",
        "sub/b.txt": b"B",
        "bad.txt": b"\xff",
        "c.md": b"C",
        "no.txt": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    documents, counts = read({"type": "text", "path": str(tmp_path)}, tasks=2)
    assert sorted((document.id, document.text) for document in documents) == [
        ("a.txt", "A"),
        ("sub/b.txt", "B"),
    ]
    assert counts == {"in": 4, "dropped:invalid_utf8": 1, "dropped:empty": 1}


def test_hugging_face_dataset_on_disk(tmp_path):
    rows = datasets.Dataset.from_list([{"text": f"text {number}", "topic": "t"} for number in range(7)])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "many")
    for name, split, size in (("one", "train", 7), ("many", "train", 7), ("many", "test", 1)):
        documents, counts = read(
            {"type": "huggingface", "path": str(tmp_path / name), "split": split}, tasks=2
        )
        assert sorted(document.text for document in documents) == [f"text {number}" for number in range(size)]
        assert counts == {"in": size} and documents[0].metadata["topic"] == "t"
    with pytest.raises(PerdureError, match="no split 'other'; it has test, train"):
        read({"type": "huggingface", "path": str(tmp_path / "many"), "split": "other"})


def test_python_packages(tmp_path, monkeypatch):
    package = tmp_path / "perdure_test_docs"
    package.mkdir()
    (package / "__init__.py").write_text('"""Prose."""\nimport nothing_there\n')
    (package / "broken.py").write_text("def")
    (package / "latin.py").write_bytes(b"x = '\xe4'")
    monkeypatch.syspath_prepend(tmp_path)
    documents, counts = read({"type": "python_docs", "packages": ["perdure_test_docs"]})
    assert [(document.id, document.text) for document in documents] == [("perdure_test_docs", "Prose.")]
    assert counts == {"in": 3, "dropped:not_python": 2}
    documents, _ = read({"type": "python_code", "packages": ["perdure_test_docs"]}, tasks=2)
    assert [document.text for document in documents] == ["import nothing_there"]
    with pytest.raises(PerdureError, match="perdure_no_such: no such package is installed"):
        read({"type": "python_code", "packages": ["perdure_no_such"]})


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text", "huggingface"])
def test_a_missing_source_is_one_readable_error(tmp_path, kind):
    with pytest.raises(PerdureError, match=r"no such .*directory; correct the reader's `path`"):
        read({"type": kind, "path": str(tmp_path / "missing")})


def test_a_folder_without_fitting_files_is_an_error(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"text": "x"}))
    with pytest.raises(PerdureError, match=r"no file fits \*\*/\*.jsonl"):
        read({"type": "jsonl", "path": str(tmp_path)})


def test_ids_above_64_bits_stay_apart(tmp_path):
    """orjson makes floats of such numbers, and many the same one."""
    numbers = [2**128 - 1, 2**128 - 2, 2**64, -(2**63) - 1, 2**64 - 1, 7, 1.5]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"id": {number}, "text": "x"}}\n' for number in numbers))
    documents, _ = read({"type": "jsonl", "path": str(path)})
    assert [document.id for document in documents] == [str(number) for number in numbers]
