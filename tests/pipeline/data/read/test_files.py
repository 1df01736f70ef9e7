import json
import os

import datasets
import pytest
from pydantic import ValidationError

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.read.files import files_below, fits
from perdure.pipeline.data.read.inputs import files_not_read, fingerprint, huggingface_on_disk, input_files
from perdure.pipeline.recipe import HuggingFaceReader, JsonlReader, TextReader


@pytest.fixture
def corpus(tmp_path):
    """A directory with a file, beside another one with two."""
    for name in ("corpus/a.jsonl", "corpus/deep/b.jsonl", "elsewhere/c.jsonl", "elsewhere/deep/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    return tmp_path / "corpus"


def found(path):
    return input_files(JsonlReader(type="jsonl", path=path))[1]


def test_links_to_files_and_directories_are_followed(corpus):
    elsewhere = corpus.parent / "elsewhere"
    (corpus / "part2").symlink_to(elsewhere)
    (corpus / "e.jsonl").symlink_to(elsewhere / "c.jsonl")
    assert found(corpus) == ["a.jsonl", "deep/b.jsonl", "part2/c.jsonl", "part2/deep/d.jsonl"]
    (corpus.parent / "whole").symlink_to(corpus)
    assert found(corpus.parent / "whole") == found(corpus)


def test_what_two_paths_lead_to_is_read_once_and_loops_end(corpus):
    before = found(corpus)
    (corpus / "again").symlink_to(corpus / "deep")
    (corpus / "0.jsonl").symlink_to(corpus / "a.jsonl")
    (corpus / "deep" / "up").symlink_to(corpus)
    (corpus / "deep" / "self").symlink_to(corpus / "deep")
    assert found(corpus) == before == ["a.jsonl", "deep/b.jsonl"]


@pytest.mark.parametrize("name", ["b.jsonl", "part2"])
def test_a_link_that_leads_nowhere_is_named(corpus, name):
    (corpus / name).symlink_to(corpus.parent / "unmounted")
    with pytest.raises(PerdureError, match=rf"corpus/{name}: a link to .*unmounted, which does not exist"):
        found(corpus)


def test_locks_of_editors_are_no_mistake(corpus):
    (corpus / ".#notes").symlink_to("somebody@host.123")
    (corpus / ".#a.jsonl").symlink_to("somebody@host.123")
    assert found(corpus) == ["a.jsonl", "deep/b.jsonl"]


def test_nothing_stands_in_the_way_where_no_pattern_looks(corpus, monkeypatch):
    (corpus / "lost+found").mkdir()
    (corpus / "deep" / "latest").symlink_to(corpus.parent / "unmounted")
    looked = []
    monkeypatch.setattr(
        os, "scandir", lambda directory, real=os.scandir: looked.append(directory) or real(directory)
    )
    assert files_below(corpus, ["*.jsonl"]) == ["a.jsonl"] and looked == [str(corpus.resolve())]
    with pytest.raises(PerdureError, match="deep/latest: a link to"):
        files_below(corpus, ["**/*.jsonl"])
    assert all("lost+found" not in directory for directory in looked)


def test_globs_mean_what_they_mean_to_pathlib_but_for_hidden_files(tmp_path):
    names = ["a.txt", "b.md", ".c.txt", "x/a.txt", "x/y/a.txt", "x/y/z/b.md", "[1].txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for glob in (
        "**/*.txt",
        "*.txt",
        "x/*",
        "x/**/*.md",
        "**/y/*",
        "**/**/a.txt",
        "./?.md",
        "x/y/a.txt",
        "[ab].*",
    ):
        expected = sorted(
            path.relative_to(tmp_path).as_posix()
            for path in tmp_path.glob(glob)
            if path.is_file() and path.name != ".c.txt"
        )
        assert files_below(tmp_path, [glob]) == expected, glob
    assert not fits("a.txt", [("**", "b.txt")])


COPIES = [
    ".ipynb_checkpoints/a-checkpoint.jsonl",
    "._a.jsonl",
    ".hidden/deep/x.jsonl",
    "#a.jsonl#",
    "__MACOSX/._a.jsonl",
    "__MACOSX/a.jsonl",
    "_temporary/0/part.jsonl",
    "deep/.b.jsonl",
]
OTHERS = ["b.json.gz", "README.md", "deep/c.csv", "archive.tar.gz", "d.parquet"]
READ = ["e.JSONL", "f.ndjson", "g.jsonl.xz", "h.jsonl.BZ2", "i.NDJSON.lz4", "j.jsonl.zstd", "deep/k.jsonl.gz"]


def test_what_lies_beside_a_corpus_is_read_or_named(corpus):
    for name in COPIES + OTHERS + READ + ["Thumbs.db", "a.jsonl~", ".a.jsonl.swp", ".DS_Store"]:
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_text(name)
    (corpus / "0.jsonl").symlink_to(corpus / "a.jsonl")  # read by its own name
    assert found(corpus) == sorted(["a.jsonl", "deep/b.jsonl", *READ])
    said = files_not_read(JsonlReader(type="jsonl", path=corpus))
    others, copies = said.split("; ")
    assert others == "not read: 5 files named otherwise (README.md, archive.tar.gz, b.json.gz, ...)"
    # Of hidden files and copies, those that would be read by another name.
    assert (
        copies
        == "7 files hidden or left by editors (._a.jsonl, .hidden/deep/x.jsonl, .ipynb_checkpoints/a-checkpoint.jsonl, ...)"
    )
    assert files_not_read(JsonlReader(type="jsonl", path=corpus / "a.jsonl")) == ""


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("**/*", ["a.txt", "deep/b.txt"]),
        (".notes/*", [".notes/c.txt"]),
        ("**/.*.txt", [".d.txt"]),
        ("*~", ["a.txt~"]),
        (".notes/.deeper/e.txt", [".notes/.deeper/e.txt"]),
    ],
)
def test_hidden_files_and_copies_are_read_where_a_glob_says_so(tmp_path, glob, expected):
    for name in [
        "a.txt",
        "deep/b.txt",
        ".notes/c.txt",
        ".d.txt",
        "a.txt~",
        ".notes/.deeper/e.txt",
        ".git/HEAD",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path, [glob]) == expected


def test_a_directory_without_fitting_files_says_what_it_holds(tmp_path):
    for number in range(4):
        (tmp_path / f"c4-train.{number:05d}.json.gz").touch()
    with pytest.raises(
        PerdureError, match=r"not read: 4 files named otherwise \(c4-train.00000.json.gz, .*\.\.\.\)"
    ):
        found(tmp_path)


@pytest.mark.parametrize("glob", ["", ".", "/data/*.txt", "../*.txt", "x/**.txt"])
def test_bad_globs_are_problems(glob):
    with pytest.raises(ValidationError, match=r"`\*\*/\*\.txt`"):
        TextReader(type="text", path="corpus", glob=glob)


def test_splits_and_folders_of_saved_datasets(tmp_path):
    rows = datasets.Dataset.from_list([{"text": "one"}], split="test")
    rows.save_to_disk(tmp_path / "test")
    datasets.Dataset.from_list([{"text": "one"}]).save_to_disk(tmp_path / "plain")
    (tmp_path / "plain" / ".cache").mkdir()

    def on_disk(name, split):
        return HuggingFaceReader(type="huggingface", path=str(tmp_path / name), split=split)

    assert fingerprint(on_disk("plain", "train"))["files"] == 3
    assert huggingface_on_disk(on_disk("test", "test")) == tmp_path / "test"
    with pytest.raises(
        PerdureError, match="no split 'validation'; it holds one dataset, test; remove `split`"
    ):
        huggingface_on_disk(on_disk("test", "validation"))
    with pytest.raises(PerdureError, match="no split 'validation'; it holds one dataset; remove `split`"):
        huggingface_on_disk(on_disk("plain", "validation"))


def test_a_saved_dataset_is_the_same_whatever_is_cached_beside_it(tmp_path):
    rows = datasets.Dataset.from_list([{"text": "one", "n": n} for n in range(4)])
    rows.save_to_disk(tmp_path / "plain", num_shards=2)
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "many")
    readers = [
        HuggingFaceReader(type="huggingface", path=str(tmp_path / name), split="train")
        for name in ("plain", "many")
    ]
    before = [fingerprint(reader) for reader in readers]
    for directory in ("plain", "many/train"):
        datasets.load_from_disk(str(tmp_path / directory)).filter(lambda row: row["n"] > 1)
        assert list((tmp_path / directory).glob("cache-*.arrow"))
    assert [fingerprint(reader) for reader in readers] == before
    assert [found["files"] for found in before] == [4, 3]
    (tmp_path / "plain" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(PerdureError, match=r"plain: data-00001-of-00002.arrow of the dataset is missing"):
        fingerprint(readers[0])
