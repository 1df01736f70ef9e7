"""One text under two names is told of, whatever leads to it."""

import os
import shutil

import datasets
import pytest

from perdure.pipeline.data.read.overlap import PAIRED, same_files
from tests.pipeline.data.texts import random_text, write_jsonl


@pytest.fixture
def corpus(tmp_path):
    for name in ("a", "b"):
        rows = [{"text": random_text(ord(name) + number)} for number in range(20)]
        write_jsonl(tmp_path / "corpus" / f"{name}.jsonl", rows)
    return tmp_path / "corpus"


def jsonl(path) -> dict:
    return {"type": "jsonl", "path": str(path)}


@pytest.mark.parametrize("by", ["path", "symlink", "hardlink", "copy", "file", "directory above", "text"])
def test_two_sources_of_one_text(corpus, make_recipe, tmp_path, by):
    other = tmp_path / "other"
    reader = jsonl(other)
    match by:
        case "path":
            reader = jsonl(corpus)
        case "symlink":
            other.symlink_to(corpus)
        case "hardlink":
            other.mkdir()
            os.link(corpus / "a.jsonl", other / "x.jsonl")
        case "copy":
            shutil.copytree(corpus, other)
        case "file":
            reader = jsonl(corpus / "b.jsonl")
        case "directory above":
            write_jsonl(tmp_path / "corpus" / "more" / "c.jsonl", [{"text": "more"}])
            reader = jsonl(corpus / "more" / "..")
        case "text":
            reader = {"type": "text", "path": str(corpus), "glob": "*.jsonl"}
    (note,) = same_files(make_recipe({"one": jsonl(corpus), "two": reader}))
    expected = {"hardlink": "1 file of each (a.jsonl)", "file": "1 file of each (b.jsonl)"}
    expected["directory above"] = "3 files of each (a.jsonl, b.jsonl, more/c.jsonl)"
    text = expected.get(by, "2 files of each (a.jsonl, b.jsonl)")
    assert note == f"one and two: the same text in {text}; who mixes both sees its documents twice"


def test_files_of_one_source(corpus, make_recipe):
    assert same_files(make_recipe({"one": jsonl(corpus)})) == []
    shutil.copy(corpus / "a.jsonl", corpus / "copy.jsonl")
    os.link(corpus / "b.jsonl", corpus / "link.jsonl")
    (note,) = same_files(make_recipe({"one": jsonl(corpus)}))
    assert note.startswith("one: 2 files with the same text as others (copy.jsonl, link.jsonl)")
    # Small files of texts are often alike: two licences are no mistake.
    assert same_files(make_recipe({"one": {"type": "text", "path": str(corpus), "glob": "*.jsonl"}})) == []


def test_what_is_not_the_same_text(corpus, make_recipe, tmp_path):
    text = (corpus / "a.jsonl").read_text()
    (tmp_path / "turned").mkdir()
    (tmp_path / "turned" / "a.jsonl").write_text(text[::-1])  # of one size
    (tmp_path / "turned" / "empty.jsonl").touch()
    (corpus / "empty.jsonl").touch()
    assert same_files(make_recipe({"one": jsonl(corpus), "two": jsonl(tmp_path / "turned")})) == []
    code = {
        "docs": {"type": "python_docs", "packages": ["json"]},
        "code": {"type": "python_code", "packages": ["json"]},
    }
    assert same_files(make_recipe(code)) == []
    assert len(same_files(make_recipe({"one": code["docs"], "two": code["docs"]}))) == 1


def test_datasets(make_recipe, tmp_path):
    datasets.Dataset.from_list([{"text": "one"}, {"text": "two"}]).save_to_disk(tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "copy")
    readers = {name: {"type": "huggingface", "path": str(tmp_path / name)} for name in ("saved", "copy")}
    (note,) = same_files(make_recipe(readers))
    assert "saved and copy: the same text in 1 file of each (data-00000-of-00001.arrow)" in note
    hub = {"type": "huggingface", "path": "someone/corpus", "config": "en"}
    (note,) = same_files(make_recipe({"one": hub, "two": hub}))
    assert "1 file of each (someone/corpus)" in note
    assert same_files(make_recipe({"one": hub, "two": hub | {"config": "de"}})) == []


def test_many_sources_with_one_text_are_named_beside_the_first(tmp_path):
    from tiny import tiny_recipe

    for number in range(PAIRED + 5):
        (tmp_path / f"{number}.txt").write_text("the same text")
    sources = {
        f"s{number}": {"reader": {"type": "text", "path": str(tmp_path / f"{number}.txt")}}
        for number in range(PAIRED + 5)
    }
    notes = same_files(tiny_recipe(tmp_path / "out", sources=sources))
    assert len(notes) == PAIRED + 4 and all("s0" in note for note in notes)
