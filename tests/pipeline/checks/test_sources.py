"""Mistakes in sources that their first documents show, before anything starts."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perdure.pipeline.checks.check import load_checked
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import RecipeSource
from tests.pipeline.checks.template import TEMPLATE

ROWS = b"".join(json.dumps({"body": f"text {n}", "title": "t"}).encode() + b"\n" for n in range(200))


def reader(kind: str, path, more: str = "") -> dict[str, tuple]:
    """Path -> (value, remedy) of the problems of the template with a reader."""
    try:
        load_checked(RecipeSource(TEMPLATE, [f"sources.prose.reader={{type: {kind}, path: {path}{more}}}"]))
    except RecipeError as error:
        return {
            problem.path.removeprefix("sources.prose."): (problem.value, problem.remedy)
            for problem in error.problems
        }
    return {}


def test_a_text_field_that_no_document_has(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"no object\n" + ROWS)
    remedy = "no document has this field; there is `body`, `title`"
    assert reader("jsonl", tmp_path) == {"reader.text_field": ("text", remedy)}
    assert reader("jsonl", tmp_path, ", text_field: body") == {}
    pq.write_table(pa.table({"contents": ["x"], "id": [1]}), tmp_path / "a.parquet")
    remedy = "no document has this field; did you mean `contents`?"
    assert reader("parquet", tmp_path, ", text_field: content") == {"reader.text_field": ("content", remedy)}


def test_one_file_with_the_field_is_enough(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}\n')
    assert reader("jsonl", tmp_path) == {}


@pytest.mark.parametrize(
    ("kind", "name", "content", "remedy"),
    [
        ("jsonl", "array.json", b'[{"text": "x"}]', "no JSON lines: should hold one object a line"),
        ("jsonl", "prose.txt", b"It is prose.\n" * 5, "no JSON lines: should hold one object a line"),
        (
            "jsonl",
            "cut.jsonl.gz",
            gzip.compress(ROWS, mtime=0)[:50],
            "damaged (Compressed file ended before the end-of-stream marker was reached); restore",
        ),
        ("jsonl", "plain.jsonl.gz", ROWS, "damaged (Not a gzipped file (b'{\"')); restore"),
        ("parquet", "rows.parquet", ROWS, "not Parquet (Parquet magic bytes not found in footer."),
    ],
)
def test_files_of_another_kind(tmp_path, kind, name, content, remedy):
    (tmp_path / name).write_bytes(content)
    ((where, (value, said)),) = reader(kind, tmp_path / name).items()
    assert (where, value) == ("reader.path", str(tmp_path / name)) and said.startswith(remedy)


def test_an_empty_file_is_judged_when_all_are_read(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    assert reader("jsonl", tmp_path) == {}
