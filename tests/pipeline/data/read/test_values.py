"""What is odd in one field costs neither the document nor the run."""

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import datasets
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.pipeline.data.read.values import DEPTH, as_json, parse_json
from tests.pipeline.data.read.source import read

TEXTS = ["one", "zwei", "三つ", ""]


def pack(values: list, kind: pa.DataType) -> pa.Array:
    """Numbers as an array of a type, though Python could not hold such values."""
    wide = {1: pa.int8(), 2: pa.int16(), 4: pa.int32(), 8: pa.int64()}[kind.bit_width // 8]
    return pa.array(values, wide).view(kind)


def invalid(kind: pa.DataType) -> pa.Array:
    """Strings that are not UTF-8."""
    return pa.array([b"\xff", b"ok", b"\xc3", None], pa.binary()).view(pa.string()).cast(kind)


EXTREME = [2**62, -(2**62), 0, 1]
METADATA: dict[str, pa.Array] = {
    "int8": pa.array([1, 0, None, 1], pa.int8()),
    "float32": pa.array([1.5, 0, None, 1], pa.float32()),
    "bool": pa.array([True, False, None, True]),
    "null": pa.nulls(4),
    "largest": pa.array([2**64 - 1, 0, 1, None], pa.uint64()),
    "half": pa.array(np.array([1, 2, np.nan, np.inf], np.float16)),
    "nan": pa.array([float("nan"), float("inf"), -0.0, None]),
    "date32": pack([2**31 - 1, -(2**31), 0, 10**7], pa.date32()),
    "timestamp s": pack([2**52, -(2**52), 0, 1], pa.timestamp("s")),
    "date64": pack([86_400_000 * 10**9, 0, -86_400_000 * 10**9, 1], pa.date64()),
    **{f"timestamp {unit}": pack(EXTREME, pa.timestamp(unit)) for unit in ("ms", "us", "ns")},
    **{
        f"zone {zone}": pack(EXTREME, pa.timestamp("us", zone))
        for zone in ("UTC", "Mars/Olympus", "+25:99", "Europe/Berlin", "")
    },
    "time32": pack([86_399, 0, 1, 2], pa.time32("s")),
    "time64": pack([86_399_999_999_999, 1, 2, 3], pa.time64("ns")),
    **{f"duration {unit}": pack(EXTREME, pa.duration(unit)) for unit in ("s", "ms", "us", "ns")},
    "decimal": pa.array([Decimal("1.5"), None, Decimal("-2.25"), Decimal(0)], pa.decimal128(38, 10)),
    "decimal256": pa.array([10**70, None, 1, 0], pa.decimal256(76, 0)),
    **{f"string {kind}": invalid(kind) for kind in (pa.string(), pa.large_string())},
    "string view": pa.array(["a", None, "a long string that does not fit in a view", ""], pa.string_view()),
    **{
        str(kind): pa.array([b"\xff", None, b"", b"x"], kind)
        for kind in (pa.binary(), pa.large_binary(), pa.binary_view())
    },
    "fixed binary": pa.array([b"ab", None, b"\xff\xff", b"cd"], pa.binary(2)),
    "dictionary": pa.array(["a", "b", None, "a"]).dictionary_encode(),
    "dictionary invalid": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, None], pa.int8()), invalid(pa.string())[:3]
    ),
    "list": pa.array([["a"], [], None, ["b", None]]),
    "large list": pa.array([[1], [], None, [2]], pa.large_list(pa.int32())),
    "fixed list": pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int16(), 2)),
    "list invalid": pa.ListArray.from_arrays([0, 1, 2, 3, 4], invalid(pa.string())),
    "struct": pa.array(
        [{"x": 1, "y": {"z": "deep"}}, None, {"x": None, "y": None}, {"x": 2, "y": {"z": None}}]
    ),
    "struct invalid": pa.StructArray.from_arrays(
        [invalid(pa.string()), pack(EXTREME, pa.timestamp("us"))], ["s", "t"]
    ),
    "map": pa.array([[("k", 1)], [], None, [("l", None)]], pa.map_(pa.string(), pa.int32())),
    "map invalid": pa.MapArray.from_arrays(
        [0, 1, 2, 3, 4], pa.array(["a", "b", "c", "d"]), invalid(pa.string())
    ),
    "uuid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([uuid.uuid4().bytes, None] * 2, pa.binary(16))
    ),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None, "[]", "x"])),
    "nested dates": pa.ListArray.from_arrays([0, 1, 2, 3, 4], pack([2**31 - 1, 0, -(2**31), 1], pa.date32())),
}


@pytest.mark.parametrize("name", METADATA)
def test_no_type_of_metadata_costs_a_document(tmp_path, name):
    pq.write_table(pa.table({"text": [*TEXTS[:3], "four"], "odd": METADATA[name]}), tmp_path / "a.parquet")
    documents, counts = read({"type": "parquet", "path": str(tmp_path)}, tasks=2)
    assert counts == {"in": 4} and sorted(doc.text for doc in documents) == sorted([*TEXTS[:3], "four"])
    for document in documents:
        written = json.dumps(document.metadata).encode()  # as tables of documents hold it
        assert orjson.loads(written) == orjson.loads(orjson.dumps(document.metadata))


@pytest.mark.parametrize("name", METADATA)
def test_nor_of_identifiers(tmp_path, name):
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"], "id": METADATA[name]}), tmp_path / "a.parquet")
    documents, counts = read({"type": "parquet", "path": str(tmp_path)})
    assert counts == {"in": 4} and all(document.id.encode() for document in documents)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options", [{}, {"use_dictionary": False}, {"store_schema": False}], ids=["dictionary", "plain", "bare"]
)
def test_texts_of_every_type(tmp_path, kind, options):
    texts = [None if number % 7 == 3 else f"{TEXTS[number % 3]} {number % 5}" for number in range(60)]
    plain = pa.array(texts)
    column = plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain.cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", row_group_size=16, **options)
    documents, counts = read({"type": "parquet", "path": str(tmp_path)}, tasks=3)
    assert sorted(document.text for document in documents) == sorted(filter(None, texts))
    assert counts == {"in": 60, "dropped:no_text": texts.count(None)}


def test_values_are_what_they_were_and_odd_ones_text(tmp_path):
    odd = pa.array([b"a\xff"], pa.binary()).view(pa.string())
    table = {
        "text": ["x"],
        "day": pack([10**7], pa.date32()),
        "name": odd,
        "names": pa.ListArray.from_arrays([0, 1], odd),
    }
    table["at"] = pa.array([datetime(2024, 5, 1, 12, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    table["there"] = pack([5], pa.timestamp("s", "Mars/Olympus"))
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (document,) = read({"type": "parquet", "path": str(tmp_path)})[0]
    expected = {
        "day": "29349-01-26",
        "name": "a\ufffd",
        "names": ["a\ufffd"],
        "at": "2024-05-01T12:00:00+00:00",
    }
    assert document.metadata == expected | {"there": "1970-01-01 00:00:05.000"}


def test_columns_and_rows_that_only_some_files_have(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "x": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"y": [2], "text": ["b"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"z": [3]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    with pq.ParquetWriter(tmp_path / "e.parquet", pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": pa.array([], pa.string())}))
        writer.write_table(pa.table({"text": ["e"]}))
    documents, counts = read({"type": "parquet", "path": str(tmp_path)})
    assert [(document.text, document.metadata) for document in documents] == [
        ("a", {"x": 1}),
        ("b", {"y": 2}),
        ("e", {}),
    ]
    assert counts == {"in": 4, "dropped:no_text": 1}


def test_saved_datasets_are_read_value_by_value(tmp_path):
    table = {"text": ["a", "b", "c"], "odd": pack([10**7, 0, 1], pa.date32()), "tag": ["x", None, "z"]}
    datasets.Dataset(pa.table(table)).save_to_disk(tmp_path / "saved")
    documents, counts = read({"type": "huggingface", "path": str(tmp_path / "saved")})
    assert counts == {"in": 3} and [document.text for document in documents] == ["a", "b", "c"]
    assert documents[0].metadata["odd"] == "29349-01-26" and documents[1].metadata["tag"] is None


LINES = [
    (r'{"text": "half \ud83d of one", "id": "\udc00i"}', "half  of one", {}),
    (r'{"text": "a \ud83d\ude00 b"}', "a 😀 b", {}),
    ('{"text": "x", "a": NaN, "b": -Infinity}', "x", {"a": None, "b": None}),
    ('{"text": "x", "a": 1e400}', "x", {"a": "1e400"}),
    ('{"text": "x", "a": ' + "1" * 5000 + "}", "x", {"a": "1" * 5000}),
    ('{"text": "x", "a": 18446744073709551616, "b": NaN}', "x", {"a": 2.0**64, "b": None}),
    (
        '{"text": "x", "a": 18446744073709551615, "b": NaN, "c": 1.5}',
        "x",
        {"a": 2**64 - 1, "b": None, "c": 1.5},
    ),
    (r'{"text": "x", "k\udc00": ["\ud800y"]}', "x", {"k": ["y"]}),
    ('{"text": "a", "text": "b"}', "b", {}),
    ('\ufeff{"text": "marked"}', "marked", {}),
    (r'{"text": "a\u0000b"}', "ab", {}),
    (b'{"text": "good", "title": "bad \xff byte"}', "good", {"title": "bad  byte"}),
    ('{"text": "x", "a": ' + "[" * 250 + "]" * 250 + "}", "x", None),
    ('{"text": "x", "a": ' + '{"k":' * 900 + "1" + "}" * 900 + "}", "x", None),
    (json.dumps({"text": "x"} | {f"k{number}": number for number in range(5000)}), "x", None),
    (r'{"text": "\ud83d"}', None, "empty"),
    (b'{"text": "bad \xff byte", "a": NaN}', None, "invalid_utf8"),
    ('{"text": "x", "a": ' + "[" * 100_000 + "]" * 100_000 + "}", None, "broken_json"),
    ('{"text": "x", "a": nan}', None, "broken_json"),
    ("\0" * 1000, None, "broken_json"),
    ("[" * 100_000, None, "broken_json"),
]


@pytest.mark.parametrize("number", range(len(LINES)))
def test_lines_that_json_leaves_out_and_others_write(tmp_path, number):
    line, text, rest = LINES[number]
    content = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "before"}\n \t \n' + content + b"\n")
    documents, counts = read({"type": "jsonl", "path": str(tmp_path)})
    if text is None:
        assert counts == {"in": 2, f"dropped:{rest}": 1}
    else:
        assert counts == {"in": 2} and documents[1].text == text
        assert rest is None or documents[1].metadata == rest
        orjson.dumps({"metadata": documents[1].metadata, "id": documents[1].id})


@settings(max_examples=40)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_json_can_say_is_read_as_orjson_does(value):
    line = orjson.dumps(value)
    assert parse_json(line) == orjson.loads(line) == value
    # The way of what orjson refuses, for a line that it does not.
    assert parse_json(b"[" + line + b", NaN]")[0] == value
    assert as_json({"a": value}) == {"a": value}


def test_depth():
    deep: object = "bottom"
    for _ in range(DEPTH + 60):
        deep = [deep]
    kept = json.dumps(as_json({"a": deep}))
    assert kept.count("[") == DEPTH - 1 and "null" in kept
