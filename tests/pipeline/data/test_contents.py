import os

import pytest

from perdure.pipeline.data import contents
from perdure.pipeline.data.clean import Contents
from perdure.pipeline.data.contents import edited, merge_records, record_path
from perdure.pipeline.data.inputs import read_files
from perdure.pipeline.data.stage import _at, _clean_inputs
from perdure.pipeline.manifest import hash_file

MIDDLE = 150_000
"""Place in a file that is in neither of its edges."""


@pytest.fixture
def recipe(make_recipe, tmp_path):
    """A recipe over three files, the first one long, as if two tasks had cleaned them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jsonl").write_text('{"text": "x"}\n' * (1, 30_000)[number == 0])
    recipe = make_recipe({"news": {"type": "jsonl", "path": str(folder)}})
    read(recipe)
    return recipe


def read(recipe):
    """What the first pipeline of the data stage leaves."""
    parts = recipe.directory / "parts"
    for rank in range(2):
        documents = object()
        step = Contents(read_files(recipe.sources["news"].reader), parts)
        assert step.run(documents, rank, 2) is documents
    cleaned = _at(recipe.directory, "clean/news", _clean_inputs(recipe)["news"])
    merge_records(parts, record_path(recipe.directory, cleaned))


def write(path, at, content):
    time = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)
    os.utime(path, ns=(time + 10**9, time + 10**9))


def test_an_edit_inside_a_file_is_another_input_until_it_is_undone(recipe, tmp_path):
    before, path = _clean_inputs(recipe)["news"], tmp_path / "in" / "0.jsonl"
    write(path, MIDDLE, b"y")
    after = _clean_inputs(recipe)["news"]
    assert after["fingerprint"] == before["fingerprint"] | {"edited": {"0.jsonl": hash_file(path)}}
    read(recipe)  # under the new inputs
    assert _clean_inputs(recipe)["news"] == after
    write(path, MIDDLE + 1, b"y")
    assert _clean_inputs(recipe)["news"] not in (before, after)
    write(path, MIDDLE, (b'{"text": "x"}\n' * 30_000)[MIDDLE : MIDDLE + 2])
    assert _clean_inputs(recipe)["news"] == before


def test_a_touched_or_copied_file_is_the_same_and_is_hashed_once(recipe, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(contents, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    monkeypatch.setattr(contents, "TOLD", 1 << 40)
    before = _clean_inputs(recipe)
    assert not hashed
    os.utime(tmp_path / "in" / "1.jsonl", ns=(1, 1))
    assert _clean_inputs(recipe) == before and hashed == ["1.jsonl"]
    assert _clean_inputs(recipe) == before and hashed == ["1.jsonl"]


def test_much_to_hash_is_told(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contents, "TOLD", 1)
    os.utime(tmp_path / "in" / "1.jsonl", ns=(1, 1))
    _clean_inputs(recipe)
    assert "files modified since they were read: 1; comparing" in capsys.readouterr().err


def test_without_a_record_nothing_was_read(tmp_path):
    assert edited(tmp_path / "none.json", tmp_path, ["x"]) == {}
