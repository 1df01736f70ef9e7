"""Mistakes in cleaning steps: each is one line with its path, value and remedy, before anything starts."""

import gzip
import importlib.util

import pytest

from perdure.pipeline.checks.check import load_checked
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.recipe import RecipeSource
from tests.pipeline.checks.template import TEMPLATE


def refused(*overrides: str) -> dict[str, tuple]:
    """Path -> (value, remedy) of the problems of the template with overrides."""
    try:
        load_checked(RecipeSource(TEMPLATE, overrides))
    except RecipeError as error:
        return {
            problem.path.removeprefix("sources.prose."): (problem.value, problem.remedy)
            for problem in error.problems
        }
    return {}


def found(steps: str) -> dict[str, tuple]:
    """The same with cleaning steps."""
    return refused(f"sources.prose.clean={steps}")


def test_every_method_can_be_named():
    names = "length language gopher_quality gopher_repetition c4_quality fineweb_quality pii exact_dedup sentence_dedup"
    assert found("[" + ", ".join(f"{{type: {name}}}" for name in names.split()) + "]") == {}


def test_a_step_named_wrongly():
    value, remedy = found("[{type: exact_dedup}, {type: gopher_qualty}]")["clean.1.type"]
    assert value == "gopher_qualty"
    assert "'gopher_quality'" in remedy and remedy.startswith("should be one of")


def test_a_threshold_of_another_step():
    problems = found("[{type: gopher_quality, min_words: 3}]")
    assert problems == {"clean.0.min_words": (3, "unknown field; did you mean `min_doc_words`?")}


@pytest.mark.parametrize("step", ["exact_dedup", "3"])
def test_a_step_that_is_no_mapping(step):
    (problem,) = found(f"[{step}]").items()
    assert problem[0].startswith("clean.0")


def test_a_missing_model_file(tmp_path):
    (tmp_path / "lid.176.ftz").touch()
    problems = found(f"[{{type: language, model: {tmp_path}/lid.176.bin}}]")
    remedy = f"no such model file; did you mean `{tmp_path}/lid.176.ftz`?"
    assert problems == {"clean.0.model": (f"{tmp_path}/lid.176.bin", remedy)}


def test_a_language_that_the_model_does_not_know():
    remedy = "none of the 176 languages of the model; its codes are as in en, de, zh"
    assert found("[{type: language, keep: [en, deu, zh, xx]}]") == {
        "clean.0.keep.1": ("deu", remedy),
        "clean.0.keep.3": ("xx", remedy),
    }


@pytest.mark.parametrize("content", [b"", b"\0\1\2" * 100, b'{"text": "x"}\n'])
def test_a_file_that_is_no_model(tmp_path, content):
    (tmp_path / "lid.bin").write_bytes(content)
    remedy = "not a fastText model that tells languages apart; name one such as lid.176.ftz"
    problems = found(f"[{{type: language, model: {tmp_path}/lid.bin}}]")
    assert problems == {"clean.0.model": (f"{tmp_path}/lid.bin", remedy)}


def test_lengths_that_leave_nothing():
    problems = found("[{type: length, min_chars: 100, max_chars: 10}]")
    assert problems == {"clean.0.max_chars": (10, "below min_chars = 100: no document would be left")}
    assert found("[{type: length, min_chars: 10, max_chars: 10}]") == {}


def test_stop_words_of_a_language_without_a_list():
    remedy = "required for kor, of which no list is known (or set min_stop_words: 0)"
    problems = found("[{type: gopher_quality, language: kor, min_stop_words: 2}]")
    assert problems == {"clean.0.stop_words": (None, remedy)}
    assert found("[{type: gopher_quality, language: kor, min_stop_words: 2, stop_words: [그리고]}]") == {}
    assert found("[{type: gopher_quality, language: kor}, {type: gopher_quality, language: deu}]") == {}


NOTHING = "no string in it has 13 words (n_grams): nothing could be looked for, and it would leak"


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("empty.jsonl", b"", NOTHING),
        ("short.jsonl", b'{"question": "Who?", "answer": "Nobody."}\n', NOTHING),
        ("list.jsonl", b"who wrote this\n", "line 1 is not JSON (invalid literal: line 1 column 1 (char 0))"),
        ("rows.parquet", b"PAR1\xff", "not UTF-8 text; name a text file or JSON lines"),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"a": "b"}\n', mtime=0)[:-9],
            "damaged (Compressed file ended before the end-of-stream marker was reached)",
        ),
        ("folder", None, "a directory; should be a file"),
    ],
)
def test_an_evaluation_file_that_would_leak(tmp_path, name, content, remedy):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    ((where, (value, said)),) = found(f"[{{type: decontaminate, files: [{path}]}}]").items()
    assert (where, value) == ("clean.0.files.0", str(path)) and said.startswith(remedy.partition(" (inv")[0])


def test_a_missing_evaluation_file(tmp_path):
    ((path, (value, remedy)),) = found(f"[{{type: decontaminate, files: [{tmp_path}/probes.jsonl]}}]").items()
    assert (path, value) == ("clean.0.files.0", f"{tmp_path}/probes.jsonl")
    assert remedy == "no such evaluation file"


def test_a_language_without_word_splitter():
    assert found("[{type: gopher_quality, language: xx}]") == {
        "clean.0.language": (
            "xx",
            "no word splitter for it; should be an ISO 639 code such as eng, de, fra, zh or jpn",
        )
    }


@pytest.mark.parametrize(
    ("language", "modules", "remedy"),
    [
        ("jpn", "sudachipy", "its words need `pip install sudachipy` (`perdure[language]` brings it)"),
        (
            "ja",
            "sudachidict_core",
            "its words need `pip install sudachidict_core` (`perdure[language]` brings it)",
        ),
        ("zh", "jieba", "its words need `pip install jieba` (`perdure[language]` brings it)"),
        ("cmn_Hant", "jieba", "its words need `pip install jieba` (`perdure[language]` brings it)"),
        ("km", "khmernltk", "its words need `pip install khmer-nltk`"),
    ],
)
def test_a_word_splitter_that_is_not_installed(monkeypatch, language, modules, remedy):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == modules else real(name, *rest)
    )
    for step in ("gopher_quality", "gopher_repetition", "c4_quality", "fineweb_quality", "sentence_dedup"):
        problems = found(f"[{{type: {step}, language: {language}}}]")
        assert problems == {"clean.0.language": (language, remedy)}


def test_libraries_that_are_not_installed(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "fast" in name else real(name, *rest)
    )
    (problem,) = found("[{type: language}]").items()
    assert problem == (
        "clean.0.type",
        ("language", "needs fastText and a model: install `perdure[language]`"),
    )


def test_missing_files_of_topics_and_subsets(tmp_path):
    problems = refused(
        f"sources.prose.topics={{type: classifier, labelled: {tmp_path}/l.jsonl}}",
        f"sources.prose.subset={{type: dsir, target: {tmp_path}/t.jsonl, tokens: 5}}",
    )
    assert problems == {
        "topics.labelled": (f"{tmp_path}/l.jsonl", "no such file"),
        "subset.target": (f"{tmp_path}/t.jsonl", "no such file"),
    }


ONE_TOPIC = b'{"text": "x", "topic": "a"}\n{"text": "y", "topic": "a"}\n'


@pytest.mark.parametrize(
    ("part", "field", "content", "remedy"),
    [
        ("topics", "labelled", b"", "is empty; should have texts of two topics or more"),
        ("topics", "labelled", ONE_TOPIC, "is of one topic, 'a'; should have texts of two topics or more"),
        ("topics", "labelled", b'{"text": "x"}', "line 1 should be JSON with `text` and `topic` as text"),
        ("subset", "target", b"\n", "there is no text in it"),
        ("subset", "target", b'{"body": "x"}', "line 1 should be JSON with `text` as text"),
    ],
)
def test_samples_that_nothing_can_be_learnt_from(tmp_path, part, field, content, remedy):
    path = tmp_path / "sample.jsonl"
    path.write_bytes(content)
    section = {"topics": "{type: classifier", "subset": "{type: dsir, tokens: 5"}[part]
    problems = refused(f"sources.prose.{part}={section}, {field}: {path}}}")
    assert problems == {f"{part}.{field}": (str(path), remedy)}


def test_a_subset_is_what_repeats(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "x"}')
    subset = f"sources.prose.subset={{type: dsir, target: {tmp_path}/t.jsonl, tokens: 5000}}"
    source = preview(load_checked(RecipeSource(TEMPLATE, [subset], tmp_path / "out")))["sources"][0]
    assert source["tokens"] == 5000 and source["repetitions"]["base"] == pytest.approx(
        400_000 / 5000, rel=0.02
    )


def test_a_sample_that_is_not_what_its_name_says(tmp_path):
    path = tmp_path / "labelled.txt"
    path.write_text("x\ny\n")
    labelled = f"sources.prose.topics={{type: classifier, labelled: {path}}}"
    remedy = "should be JSON lines with `text` and `topic`, and `.jsonl`"
    assert refused(labelled) == {"topics.labelled": (str(path), remedy)}
    path = path.rename(tmp_path / "labelled.json")
    path.write_bytes(ONE_TOPIC.replace(b'"a"}\n{', b'"b"}\n{'))
    assert refused(labelled.replace(".txt", ".json")) == {}
