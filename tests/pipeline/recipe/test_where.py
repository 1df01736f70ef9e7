"""`where:` of readers: what is taken, what is dropped and counted, and what it leaves alone."""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import tiny_recipe

from perdure.pipeline.checks.check import load_checked
from perdure.pipeline.checks.sizes import estimated_tokens
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.data.cleaning.drops import heavy_drops
from perdure.pipeline.data.identity import clean_inputs
from perdure.pipeline.data.read.overlap import same_files
from perdure.pipeline.data.read.reading import refusal
from perdure.pipeline.recipe import RecipeSource, Source
from perdure.pipeline.recipe.where import Condition, moment
from tests.pipeline.checks.template import TEMPLATE
from tests.pipeline.data.read.source import read

MOMENTS = st.datetimes(
    datetime(1, 1, 3),
    datetime(9999, 12, 29),
    timezones=st.none() | st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours))),
)


def condition(**fields) -> Condition:
    return Condition.model_validate(fields)


def as_utc(when: datetime) -> datetime:
    return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)


@given(MOMENTS, MOMENTS, MOMENTS)
def test_a_range_of_dates_is_that_of_moments(value, one, other):
    first, end = sorted((one, other), key=as_utc)
    if as_utc(first) == as_utc(end):
        return
    found = condition(at_least=first.isoformat(), below=end.isoformat()).holds(value.isoformat())
    assert found == (as_utc(first) <= as_utc(value) < as_utc(end))


@given(st.integers() | st.floats(), st.integers(), st.integers(1, 99))
def test_a_range_of_numbers(value, first, size):
    found = condition(at_least=first, below=first + size)
    assert found.holds(value) == (None if value != value else first <= value < first + size)
    assert found.holds(str(float(value)) if abs(value) < 2**53 else "x") == (
        first <= value < first + size if abs(value) < 2**53 else None
    )


@pytest.mark.parametrize(
    ("fields", "value", "expected"),
    [
        ({"equals": "en"}, "en", True),
        ({"equals": "en"}, "En", False),
        ({"equals": 1}, 1.0, True),
        ({"equals": 1}, True, False),
        ({"equals": True}, True, True),
        ({"equals": False}, 0, False),
        ({"equals": 1}, "1", False),
        ({"equals": "a"}, ["a"], False),
        ({"at_least": "2024"}, "2024-01-01", True),
        ({"at_least": "2024"}, "2023-12-31T23:59:59Z", False),
        ({"at_least": "2024"}, "2023-12-31T23:59:59-01:00", True),
        ({"below": "2024-02"}, "2024-02-01", False),
        ({"below": "2024-02"}, "2024-01", True),
        ({"below": "2024-02"}, " 20240131 ", True),
        ({"below": "2024-02"}, "31 January", None),
        ({"below": "2024-02"}, 1706659200, None),
        ({"below": 2024}, 2023, True),
        ({"below": 2024}, "2023", True),
        ({"below": 2024}, True, None),
        ({"below": 2024}, "nan", None),
        ({"below": 2024}, "2023-05-01", None),
        ({"below": 2024}, {"year": 2023}, None),
    ],
)
def test_what_a_condition_takes(fields, value, expected):
    assert condition(**fields).holds(value) is expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "should have `equals`, or a range"),
        ({"equals": 1, "below": 2}, "should have `equals`, or a range"),
        ({"at_least": "yesterday"}, "should be a number, or a date such as"),
        ({"at_least": "2024", "below": 2025}, "two dates or two numbers"),
        ({"at_least": 2, "below": 2}, "`at_least` should be less than `below`"),
        ({"at_least": "2024", "below": "2024-01-01"}, "`at_least` should be less than `below`"),
        ({"at_least": True}, "valid"),
        ({"equal": 1}, "Extra inputs"),
    ],
)
def test_what_a_condition_cannot_be(fields, said):
    with pytest.raises(ValidationError, match=said):
        condition(**fields)


VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["2024", "2025-01-01", "1", "x"])
CONDITIONS = st.sampled_from(
    [{"equals": 1}, {"equals": "x"}, {"at_least": 0, "below": 2}, {"below": "2025"}, {"at_least": "2024-05"}]
)


@given(
    st.lists(st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES}), max_size=9),
    CONDITIONS,
    CONDITIONS,
)
def test_every_document_is_taken_or_counted_with_one_reason(tmp_path_factory, rows, first, second):
    path = tmp_path_factory.getbasetemp() / "where.jsonl"
    lines = [{"text": "t", "id": str(n), **row} for n, row in enumerate(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    where = {"a": first, "b": second}
    documents, counts = read({"type": "jsonl", "path": str(path), "where": where}, 2)
    taken, reasons = [], Counter()
    for row in lines:
        for field, wanted in where.items():
            value = row.get(field)
            holds = None if value is None else condition(**wanted).holds(value)
            if holds is not True:
                kind = "_missing" if value is None else "_unreadable" if holds is None else ""
                reasons[f"dropped:where{kind}"] += 1
                break
        else:
            taken.append(row["id"])
    assert sorted(document.id for document in documents) == sorted(taken)
    assert counts == reasons + Counter({"in": len(rows)})


def test_every_reader_of_rows_takes_the_same(tmp_path):
    days = [date(2024, month, 1) for month in range(1, 13)]
    rows = {
        "text": [f"t{day.month}" for day in days],
        "day": days,
        "time": [datetime(day.year, day.month, 1, 12) for day in days],
        "score": [Decimal(day.month) / 2 for day in days],
    }
    table = pa.table(rows)
    pq.write_table(table, tmp_path / "rows.parquet")
    datasets.Dataset(table).save_to_disk(tmp_path / "dataset")
    lines = [
        {"text": text, "metadata": {"day": str(day)}, "time": f"{time.isoformat()}Z", "score": float(score)}
        for text, day, time, score in zip(*rows.values(), strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    where = {
        "day": {"at_least": "2024-03"},
        "time": {"below": "2024-08-01"},
        "score": {"at_least": 2, "below": 3.5},
    }
    for kind, name in (("parquet", "rows.parquet"), ("huggingface", "dataset"), ("jsonl", "rows.jsonl")):
        documents, counts = read({"type": kind, "path": str(tmp_path / name), "where": where})
        assert [document.text for document in documents] == ["t4", "t5", "t6"], kind
        assert counts == {"in": 12, "dropped:where": 9}, kind


def test_sources_of_before_are_the_same_and_others_are_not(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "t", "day": "2024-05-01"}\n')
    reader = {"type": "jsonl", "path": str(path)}

    def identity(**more):
        source = {"reader": reader | more, "clean": []}
        return hash_of(clean_inputs(tiny_recipe(tmp_path / "out", sources={"a": source}))["a"]["reader"])

    assert "where" not in Source.model_validate({"reader": reader}).reader.model_dump()
    plain = hash_of({"type": "jsonl", "text_field": "text", "id_field": "id"})
    conditions = [{}, {"day": {"below": "2025"}}, {"day": {"at_least": "2025"}}, {"date": {"below": "2025"}}]
    found = [identity(where=where) for where in conditions]
    assert found[0] == identity() == plain and len(set(found)) == len(conditions)


def test_what_where_leaves_is_no_estimate_of_the_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "some text here", "day": "2024-05-01"}\n' * 99)
    for where, known in (({}, True), ({"day": {"below": "2025"}}, False)):
        reader = {"type": "jsonl", "path": str(path), "where": where}
        recipe = tiny_recipe(tmp_path / "out", sources={"a": {"reader": reader}})
        assert (estimated_tokens(recipe, recipe.sources["a"]) is not None) == known


LIMITS = st.sampled_from(
    [{"equals": n} for n in (1, 3, "2024", "x")]
    + [{"at_least": a, "below": b} for a, b in ((0, 2), (2, 4), ("2023", "2024"), ("2024", "2025"))]
    + [{"at_least": 2}, {"below": 2}, {"at_least": "2024"}, {"below": "2024"}]
)


@given(LIMITS, LIMITS)
def test_conditions_that_exclude_each_other_share_no_value(one, other):
    first, second = condition(**one), condition(**other)
    values = [0, 1, 2, 3, 4, "x", "2023", "2023-05", "2024", "2024-05", "2025", "1", "2"]
    both = [value for value in values if first.holds(value) and second.holds(value)]
    assert first.excludes(second) == second.excludes(first)
    assert not (first.excludes(second) and both)
    if first.of_dates == second.of_dates or "equals" in one or "equals" in other:
        assert first.excludes(second) == (not both)


def test_slices_of_a_file_are_not_told_of_as_the_same_text(tmp_path):
    path = tmp_path / "news.jsonl"
    path.write_text('{"text": "some text here", "day": "2024-05-01"}\n')
    slices = [
        {"at_least": "2023", "below": "2024"},
        {"at_least": "2024", "below": "2025"},
        {"at_least": "2024-06"},
    ]
    sources = {
        f"s{number}": {"reader": {"type": "jsonl", "path": str(path), "where": {"day": limits}}}
        for number, limits in enumerate(slices)
    }
    (note,) = same_files(tiny_recipe(tmp_path / "out", sources=sources))
    assert note.startswith("s1 and s2: the same text in 1 file")


def test_what_was_asked_for_is_no_heavy_drop(tmp_path):
    none = {"documents": 0, "words": 0}
    step = {"step": "read", "in": {"documents": 100, "words": 5}}
    step["dropped"] = {"where": none | {"documents": 90}, "where_missing": none | {"documents": 5}}
    assert heavy_drops({"steps": [step]}, tmp_path) == []
    step["dropped"]["where_missing"]["documents"] = 30
    (found,) = heavy_drops({"steps": [step]}, tmp_path)
    assert found["says"] == "read dropped 30 of 100 documents (30%): 30 where_missing"


def refused(*overrides):
    with pytest.raises(RecipeError) as error:
        load_checked(RecipeSource(TEMPLATE, overrides))
    return {problem.path: problem.remedy for problem in error.value.problems}


def test_mistakes_are_named_before_anything_starts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "t", "date": "2024-05-01"}\n')
    reader = f"sources.prose.reader={{type: jsonl, path: {tmp_path}, where: "
    place = "sources.prose.reader.where"
    assert refused(reader + "{dtae: {below: '2025'}}}") == {
        place: "no document has this field; did you mean `date`?"
    }
    assert refused(reader + "{date: {below: 2025-01-01}}}") == {
        f"{place}.date.below": "should stand in quotes, as '2025-01-01': without them YAML reads a date"
    }
    assert "a date such as" in refused(reader + "{date: {below: soon}}}")[f"{place}.date.below"]
    (remedy,) = refused(reader + "{text: {equals: x}}}").values()
    assert remedy == "`where` should name other fields than `text`, which is the text or the id"
    (tmp_path / "a.jsonl").write_text('{"text": "t", "metadata": {"date": "2024-05-01"}}\n')
    load_checked(RecipeSource(TEMPLATE, [reader + "{date: {below: '2025'}}}"]))


def test_order_of_conditions_is_that_of_the_recipe():
    where = {"b": condition(equals=1), "a": condition(equals=1)}
    assert refusal(where, {"b": 2}) == "where" and refusal(where, {"a": 2}) == "where_missing"
    assert moment("2024") == moment("2024-01") == moment("2024-01-01T00:00:00+00:00")
