import os

import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.data.backends import slurm
from perdure.pipeline.data.backends.local import JOB, executor_on
from perdure.pipeline.data.cleaning import clean
from perdure.pipeline.data.cleaning.clean import Contents, clean_source
from perdure.pipeline.data.context import StageContext
from perdure.pipeline.data.identity import clean_inputs, place
from perdure.pipeline.data.read import contents
from perdure.pipeline.data.read.contents import edited, merge_records, record_path
from perdure.pipeline.data.read.inputs import read_files
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.recipe import Source
from tests.pipeline.data.cleaning.cleaned import InProcess
from tests.pipeline.data.texts import random_text, write_jsonl

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
    cleaned = place(recipe.directory, "clean/news", clean_inputs(recipe)["news"])
    merge_records(parts, record_path(recipe.directory, cleaned))


def write(path, at, content):
    time = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)
    os.utime(path, ns=(time + 10**9, time + 10**9))


def test_an_edit_inside_a_file_is_another_input_until_it_is_undone(recipe, tmp_path):
    before, path = clean_inputs(recipe)["news"], tmp_path / "in" / "0.jsonl"
    write(path, MIDDLE, b"y")
    after = clean_inputs(recipe)["news"]
    assert after["fingerprint"] == before["fingerprint"] | {"edited": {"0.jsonl": hash_file(path)}}
    read(recipe)  # under the new inputs
    assert clean_inputs(recipe)["news"] == after
    write(path, MIDDLE + 1, b"y")
    assert clean_inputs(recipe)["news"] not in (before, after)
    write(path, MIDDLE, (b'{"text": "x"}\n' * 30_000)[MIDDLE : MIDDLE + 2])
    assert clean_inputs(recipe)["news"] == before


def test_a_touched_or_copied_file_is_the_same_and_is_hashed_once(recipe, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(contents, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    monkeypatch.setattr(contents, "TOLD", 1 << 40)
    before = clean_inputs(recipe)
    assert not hashed
    os.utime(tmp_path / "in" / "1.jsonl", ns=(1, 1))
    assert clean_inputs(recipe) == before and hashed == ["1.jsonl"]
    assert clean_inputs(recipe) == before and hashed == ["1.jsonl"]


def test_much_to_hash_is_told(recipe, tmp_path, monkeypatch, said):
    monkeypatch.setattr(contents, "TOLD", 1)
    os.utime(tmp_path / "in" / "1.jsonl", ns=(1, 1))
    clean_inputs(recipe)
    assert any("files touched since they were read: 1; comparing" in line for line in said)


def test_without_a_record_nothing_was_read(tmp_path):
    assert edited(tmp_path / "none.json", tmp_path, ["x"]) == {}


def test_a_file_that_two_tasks_hashed_is_in_no_record(recipe, tmp_path):
    parts = recipe.directory / "parts"
    write_json(parts / "00002.json", read_json(parts / "00001.json"))
    with pytest.raises(AssertionError):
        merge_records(parts, tmp_path / "record.json")


class Killed(InProcess):
    """Does task 1 alone."""

    def map(self, function, ranks):
        super().map(function, ranks[1:])
        raise KeyboardInterrupt


class Editing(InProcess):
    """A file is edited after task 1 and before task 0."""

    def __init__(self, edit):
        self.edit = edit

    def map(self, function, ranks):
        super().map(function, ranks[1:])
        self.edit()
        return super().map(function, ranks[:1])


@pytest.fixture
def shared(tmp_path):
    """A file that two tasks share, large enough to have a middle; how to clean it by a pool, and how to edit the middle."""
    rows = [{"text": f"document {number} old {random_text(number)}"} for number in range(500)]
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    source = Source.model_validate({"reader": {"type": "jsonl", "path": str(path)}, "clean": []})
    final = tmp_path / "out" / "clean" / "s@1"

    def run(pool):
        clean_source(StageContext(tmp_path / "out", 2, lambda: executor_on(pool)), final, "s", source, {})
        return [document.text.split()[2] for document in CleanedDocuments(str(final)).all()]

    def edit():
        path.write_text(path.read_text().replace(" old ", " new "))

    return path, run, edit


def test_a_file_edited_between_a_kill_and_the_resume_is_read_anew(shared, tmp_path, said):
    path, run, edit = shared
    with pytest.raises(KeyboardInterrupt):
        run(Killed())
    edit()
    assert run(InProcess()) == ["new"] * 500
    assert (
        said[0]
        == f"sources.s: {path} has changed since an unfinished run read it; the source is cleaned anew"
    )
    record = record_path(tmp_path / "out", tmp_path / "out" / "clean" / "s@1")
    assert edited(record, tmp_path, ["in.jsonl"]) == {}


def test_a_file_touched_between_a_kill_and_the_resume_goes_on_if_its_content_is_known(shared, said):
    path, run, _ = shared

    class First(InProcess):
        def map(self, function, ranks):
            super().map(function, ranks[:1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(First())
    path.touch()
    assert run(InProcess()) == ["old"] * 500
    assert not any("anew" in line for line in said)


def copy_of_hard_links(path):
    os.link(path, path.with_suffix(".backup"))


def other_mount(path):
    """A file system that gives every file another inode each time it is mounted."""
    path.with_suffix(".copy").write_bytes(path.read_bytes())
    time = path.stat().st_mtime_ns
    path.with_suffix(".copy").replace(path)
    os.utime(path, ns=(time, time))


NO_EDITS = [lambda path: path.chmod(0o600), lambda path: path.touch(), copy_of_hard_links, other_mount]


@pytest.mark.parametrize("happens", NO_EDITS)
@pytest.mark.parametrize("first", [0, 1])  # of the tasks: the one that hashes the file, or the other one
def test_what_is_no_edit_keeps_the_work_of_a_killed_run(shared, said, happens, first):
    path, run, _ = shared

    class One(InProcess):
        def map(self, function, ranks):
            super().map(function, ranks[first : first + 1])
            raise KeyboardInterrupt

    class Other(InProcess):
        def map(self, function, ranks):
            assert ranks == [1 - first]
            return super().map(function, ranks)

    with pytest.raises(KeyboardInterrupt):
        run(One())
    happens(path)
    assert run(Other()) == ["old"] * 500
    assert not any("anew" in line for line in said)


@pytest.mark.parametrize("happens", NO_EDITS)
def test_what_is_no_edit_while_a_file_is_read_is_no_error(shared, happens):
    path, run, _ = shared
    assert run(Editing(lambda: happens(path))) == ["old"] * 500


def test_what_is_no_edit_has_a_file_hashed_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    files = tmp_path, ["a"]
    contents.remember(tmp_path / "work", *files)
    list(Contents(files, tmp_path / "work" / contents.PARTS).run(()))
    hashed = []
    monkeypatch.setattr(contents, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    (tmp_path / "a").touch()
    assert [contents.changed(tmp_path / "work", *files) for _ in range(2)] == [[], []]
    assert hashed == ["a"]
    (tmp_path / "a").write_text("y")
    assert contents.changed(tmp_path / "work", *files) == ["a"]


def test_an_edit_inside_a_file_that_a_task_has_hashed_is_noticed_if_its_time_is_set_back(tmp_path):
    path, files = tmp_path / "a", (tmp_path, ["a"])
    path.write_bytes(b"x" * 2 * MIDDLE)
    contents.remember(tmp_path / "work", *files)
    list(Contents(files, tmp_path / "work" / contents.PARTS).run(()))
    time = path.stat().st_mtime_ns
    write(path, MIDDLE, b"y")
    os.utime(path, ns=(time, time))
    assert contents.changed(tmp_path / "work", *files) == ["a"]


def test_a_file_edited_while_it_is_read_is_an_error_and_the_next_run_reads_it_anew(shared):
    path, run, edit = shared
    with pytest.raises(PerdureError) as error:
        run(Editing(edit))
    assert str(error.value) == (
        f"sources.s: {path} changed while it was read; run the same command again when nobody writes to it: the source is "
        "then read anew"
    )
    assert run(InProcess()) == ["new"] * 500


def test_a_file_edited_while_an_array_reads_it_waits_for_the_array(shared, tmp_path, monkeypatch):
    _, run, edit = shared
    with pytest.raises(KeyboardInterrupt):
        run(Killed())
    edit()
    (tmp_path / "out" / "work" / "clean.s@1" / "write" / JOB).write_text('{"job": "7"}')
    monkeypatch.setattr(clean.shutil, "which", lambda command: command)
    monkeypatch.setattr(slurm, "in_queue", lambda job: job == "7")
    with pytest.raises(PerdureError, match=r"in.jsonl has changed, but Slurm job 7 of an earlier run still"):
        run(InProcess())


def test_without_slurm_a_job_of_an_earlier_run_is_told_and_not_asked_for(shared, tmp_path, monkeypatch, said):
    path, run, edit = shared
    with pytest.raises(KeyboardInterrupt):
        run(Killed())
    edit()
    (tmp_path / "out" / "work" / "clean.s@1" / "write" / JOB).write_text('{"job": "7"}')
    monkeypatch.setenv("PATH", "")
    assert run(InProcess()) == ["new"] * 500
    assert said[0] == (
        f"sources.s: {path} has changed since an unfinished run read it (it had Slurm job 7, of which this machine, without "
        "Slurm, knows nothing); the source is cleaned anew"
    )
