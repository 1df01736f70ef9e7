"""Small files of texts: how they are read goes by the name, and what is neither text nor JSON lines is refused."""

import gzip
import json
from pathlib import Path

import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.data.cleaning.step_inputs import cleaning_inputs, label_inputs
from perdure.pipeline.data.features import read_rows
from perdure.pipeline.data.read.texts import evaluation_texts
from perdure.pipeline.recipe import Decontaminate, DsirSubset, PersonalData

QUESTION = "Как называется самая высокая гора?"
ROWS = "".join(json.dumps({"text": text, "topic": "q"}) + "\n" for text in (QUESTION, "Who?"))
JSON_NAMES = ["a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.Json", "a.jsonl.gz", "a.json.gz", "a.v2.jsonl"]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", JSON_NAMES)
def test_json_lines_whatever_their_name(tmp_path, name):
    path = write(tmp_path / name, "\ufeff" + ROWS)
    assert list(read_rows(path, "text")) == [(QUESTION,), ("Who?",)]
    assert list(read_rows(path, "text", "topic")) == [(QUESTION, "q"), ("Who?", "q")]
    assert list(evaluation_texts(path)) == [QUESTION, "q", "Who?", "q"]


def test_text_is_text(tmp_path):
    path = write(tmp_path / "a.txt", f"[1] {QUESTION}\n\n{{Who?}}\n")
    assert list(read_rows(path, "text")) == [(f"[1] {QUESTION}",), ("{Who?}",)]
    assert list(evaluation_texts(path)) == [f"[1] {QUESTION}\n{{Who?}}\n"]


@pytest.mark.parametrize(
    "text",
    [
        "[[File:x.jpg]]\nA mountain.\n",
        "{\n  x = 1;\n}\n",
        '["quote" he said]\n',
        '{"a": 1} is an object.\n',
        "{\n",
        "[\n" + ROWS,
        '{"text": "x",\nand so on\n',
    ],
)
def test_text_that_only_looks_like_json_is_text(tmp_path, text):
    path = write(tmp_path / "a.txt", text)
    assert list(evaluation_texts(path)) == [text]
    assert list(read_rows(path, "text")) == [(line,) for line in text.splitlines()]


BEGINS = "begins like JSON, but is not named so; should be JSON lines, one object a line, and `.jsonl`"
BYTES = "not UTF-8 text; name a text file or JSON lines"
ARRAY = "a JSON array; should be JSON lines, one object a line"


@pytest.mark.parametrize("read", [evaluation_texts, lambda path: read_rows(path, "text")])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", ROWS, BEGINS),
        ("a.txt", "\n[\n" + ROWS.replace("\n", ",\n", 1) + "]\n", BEGINS),
        ("a.txt", '{"text":\n"x"}\n', BEGINS),
        ("a", json.dumps([{"text": "x"}]), BEGINS),
        ("a.txt", json.dumps({"text": "x"}, indent=1), BEGINS),
        ("a.txt", "Größe".encode("latin-1"), BYTES),
        ("a.txt", "x".encode("utf-16"), BYTES),
        ("a.parquet", b"PAR1\x15\x00\x15", BYTES),
        ("a.json", json.dumps([{"text": "x"}], indent=1), ARRAY),
    ],
)
def test_what_is_not_what_its_name_says(tmp_path, read, name, content, said):
    path = write(tmp_path / name, content)
    with pytest.raises(PerdureError) as error:
        list(read(path))
    assert str(error.value) == f"{path}: {said}"


def test_an_array_on_one_line(tmp_path):
    """To be looked for, its strings are as good as those of lines; to be learnt from, nobody knows which are texts."""
    path = write(tmp_path / "a.json", json.dumps([{"text": QUESTION}, {"text": "Who?"}]))
    assert list(evaluation_texts(path)) == [QUESTION, "Who?"]
    with pytest.raises(PerdureError, match=r"line 1 is a JSON array; should be JSON lines.* with `text`"):
        list(read_rows(path, "text"))


def test_a_topic_needs_a_name_of_json_lines(tmp_path):
    path = write(tmp_path / "a.txt", "x\n")
    with pytest.raises(PerdureError, match=r"should be JSON lines with `text` and `topic`, and `.jsonl`"):
        list(read_rows(path, "text", "topic"))


@pytest.mark.parametrize("name", [*JSON_NAMES, "a.txt"])
def test_what_was_made_of_json_as_text_is_not_used_again(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    digest = hash_file(path)
    always_so = name in ("a.jsonl", "a.jsonl.gz", "a.v2.jsonl", "a.txt")
    label = label_inputs(DsirSubset(type="dsir", target=path, tokens=1))
    assert label["target"] == (digest if always_so else [digest, "json lines"])
    step = cleaning_inputs(Decontaminate(type="decontaminate", files=[path]))
    assert step["files"] == [[name, digest] if always_so else [name, digest, "json lines"]]


def test_the_addresses_of_personal_data_are_an_input():
    assert cleaning_inputs(PersonalData(type="pii")) == {
        "type": "pii",
        "remove_emails": True,
        "remove_ips": True,
        "replacements": ["email@example.com", "22.214.171.124"],
    }
