"""Paths that are no plain files or directories, or lead to more than anybody means: an answer, and no waiting."""

import json
import os

import pytest

from perdure.pipeline.cli import entry
from perdure.pipeline.data.read import files
from perdure.pipeline.evaluate import harness
from tests.pipeline.checks.template import TEMPLATE, found

pytestmark = pytest.mark.timeout(60)

LEAST = 500
"""Entries of a small directory that nobody means."""


@pytest.fixture
def odd(tmp_path):
    """A pipe, a link in a circle, a link to nothing, and directories that have pipes for files."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    for name in ("config.json", "tokenizer.json", "state.json", "model.safetensors", "a.yaml", "a.jsonl"):
        (tmp_path / f"{name}.d").mkdir()
        os.mkfifo(tmp_path / f"{name}.d" / name)
    return tmp_path


FIELDS = {
    "evaluation.probes.0": "evaluation.probes=[{}]",
    "sources.code.clean.0.files.0": "sources.code.clean=[{{type: decontaminate, files: [{}]}}]",
    "sources.code.clean.0.model": "sources.code.clean=[{{type: language, keep: [en], model: {}}}]",
    "sources.code.topics.labelled": "sources.code.topics={{type: classifier, labelled: {}}}",
    "tokenizer.path": "tokenizer={{type: huggingface, path: {}}}",
    "model.path": "model={{type: huggingface, path: {}}}",
    "evaluation.harness.include_path": "evaluation.harness={{include_path: {}, tasks: [a]}}",
    "versions.update.selection.reference": "versions.update.selection.reference={}",
    **{
        f"sources.code.reader.path {kind}": f"sources.code.reader={{{{type: {kind}, path: {{}}}}}}"
        for kind in ("jsonl", "parquet", "text", "huggingface")
    },
}
"""Overrides that put a path somewhere, by its field."""


@pytest.mark.parametrize(
    "place", ["pipe", "loop", "loop/x", "gone", "gone/x", "pipe/x", "/dev/zero", "/dev/null"]
)
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_no_file_is_named(odd, field, place):
    path = place if place.startswith("/") else f"{odd}/{place}"
    problems = found(FIELDS[field].format(path))
    (_, remedy) = problems[field.split()[0]]
    assert "Symlink" not in remedy and f"did you mean `{path}`" not in remedy


@pytest.mark.parametrize(
    ("name", "override", "field"),
    [
        ("config.json", "model={{type: huggingface, path: {}}}", "model.path"),
        ("tokenizer.json", "tokenizer={{type: huggingface, path: {}}}", "tokenizer.path"),
        ("tokenizer.json", "tokenizer={{type: extend, num_tokens: 9, sources: [code], path: {}}}", "tokenizer.path"),
        ("state.json", "sources.code.reader={{type: huggingface, path: {}}}", "sources.code.reader.path"),
        ("a.yaml", "evaluation.harness={{tasks: [a], include_path: {}}}", "evaluation.harness.tasks.0"),
        ("a.jsonl", "sources.code.reader={{type: jsonl, path: {}}}", "sources.code.reader.path"),
    ],
)  # fmt: skip
def test_a_pipe_in_a_directory_is_no_file_of_it(odd, name, override, field):
    assert field in found(override.format(odd / f"{name}.d"))


@pytest.mark.parametrize("place", ["loop", "gone", "pipe", "loop/x"])
def test_an_output_that_cannot_be_made(odd, place):
    assert "should be a directory" in found(out=odd / place)["out"][1]


@pytest.mark.parametrize("place", ["loop", "gone", "loop/x", "."])
def test_a_recipe_that_cannot_be_opened(odd, capsys, place):
    assert entry.main(["check", str(odd / place)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_directory_of_anything_is_told_from_one_of_text(tmp_path, monkeypatch):
    """However many files fit; those that nothing reads are counted."""
    monkeypatch.setattr(files, "MOST_OTHERS", LEAST)
    monkeypatch.setattr(harness, "MOST_OTHERS", LEAST)
    for number in range(2 * LEAST):
        place = tmp_path / "text" / str(number // 100)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jsonl").write_text(json.dumps({"text": "word"}))
    reader = f"sources.code.reader={{type: jsonl, path: {tmp_path}}}"
    assert found(reader, out=tmp_path.parent / "out") == {}
    for number in range(LEAST):
        (tmp_path / f"{number}.png").write_text("")
    assert "more than 500 files and directories" in found(reader)["sources.code.reader.path"][1]
    tasks = f"evaluation.harness={{tasks: [a], include_path: {tmp_path}}}"
    assert "name the directory of the tasks" in found(tasks)["evaluation.harness.include_path"][1]


def test_before_there_is_data_no_text_is_read_but_a_sample(tmp_path, monkeypatch):
    """Fingerprints open every file; nothing can be finished yet that they would be compared with."""
    for number in range(300):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"text": f"word {number}"}))
    opened = []
    monkeypatch.setattr("perdure.pipeline.data.read.inputs.edges", lambda path: opened.append(path) or "")
    overrides = ["check", str(TEMPLATE), "--out", str(tmp_path.parent / "out"), "--set"]
    assert entry.main([*overrides, f"sources.code.reader={{type: jsonl, path: {tmp_path}}}"]) == 0
    assert not opened
