"""Withdrawn ids that are nobody's: one line each, before any compute; and how many documents are left out."""

import pytest
from tiny import random_data, random_documents, tiny_recipe, write_data

from perdure.pipeline.checks import withdrawn as checks
from perdure.pipeline.checks.finished import against_data
from tests.pipeline.checks.template import found

STEP = 32 * 8
WHERE = "versions.update.mixture.withdrawn"


def test_sources_and_files_that_are_not_there(tmp_path):
    assert found(
        f"{WHERE}={{code: {tmp_path}/gone.txt, cod: [a]}}", "versions.update.mixture.max_repetition=100"
    ) == {
        f"{WHERE}.code": (f"{tmp_path}/gone.txt", "cannot be read: No such file or directory"),
        f"{WHERE}.cod": ("cod", "no such source; did you mean `code`?"),
    }
    assert found(f"{WHERE}={{code: [a, 2]}}") == {f"{WHERE}.code.1": (2, "should be a valid string")}


@pytest.fixture
def recipe_with(tmp_path, monkeypatch):
    data, _, _ = random_data(tmp_path)
    monkeypatch.setattr(checks, "finished_data", lambda _recipe: data)

    def made(withdrawn: dict):
        schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
        version = {"tokens": STEP * 4, "schedule": schedule}
        mixture = {
            "sources": {"b": {}},
            "replay": {"share": 0.5, "from_parents": True},
            "withdrawn": withdrawn,
        }
        versions = {
            "base": version | {"start": {"type": "init"}, "mixture": {"sources": {"a": {}}}},
            "update": version | {"start": {"type": "update", "parent": "base"}, "mixture": mixture},
        }
        return tiny_recipe(tmp_path, versions=versions)

    return made


def test_an_id_that_nobody_has_is_refused_by_name(recipe_with):
    recipe = recipe_with({"a": ["train/0/1", "gone/1", "gone/2"]})
    (problem,) = against_data(recipe)
    assert str(problem) == (
        f"{WHERE}.a = 'gone/1': no document of `a` has the id gone/1, gone/2; documents that cleaning dropped have none"
    )
    assert checks.left_out(recipe, "update", "a") is None
    ids = [f"train/{task}/{number}" for task in range(2) for number in range(60)]
    (problem,) = against_data(recipe_with({"b": ids}))
    assert str(problem).startswith("versions.update.mixture = 'b': all of its documents are withdrawn")


def test_what_is_left_out_is_counted(recipe_with):
    recipe = recipe_with({"a": ["train/0/1", "train/1/7", "heldout/0/0"]})
    assert not against_data(recipe)
    told = checks.left_out(recipe, "update", "a")
    assert told["documents"] == 2 and 6 <= told["tokens"] <= 82
    assert checks.left_out(recipe, "base", "a") is checks.left_out(recipe, "update", "b") is None


def test_ids_that_nobody_has_are_told_of_all_sources(recipe_with):
    found = against_data(recipe_with({"a": ["gone/1"], "b": ["gone/2"]}))
    assert [problem.path for problem in found] == [f"{WHERE}.a", f"{WHERE}.b"]


def test_an_exact_reference_that_read_the_same_text_in_another_source_is_refused(tmp_path, monkeypatch):
    """`b` has two documents of `a`; a reference without them is in order."""
    own, others = random_documents(1, 8, 300), random_documents(2, 8, 300)
    data = {
        "a": write_data(tmp_path / "data" / "a", [own], own[:1], 300),
        "b": write_data(tmp_path / "data" / "b", [[*others, own[3], own[5]]], others[:1], 300),
    }
    monkeypatch.setattr(checks, "finished_data", lambda _recipe: data)
    schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
    both = {"tokens": STEP, "schedule": schedule, "start": {"type": "init"}}

    def told(**mixture):
        mixture = {"sources": {"b": {}}, "max_repetition": 99} | mixture
        versions = {"exact": both | {"mixture": mixture}}
        recipe = tiny_recipe(
            tmp_path, versions=versions, evaluation={"max_tokens": 500, "exact": {"a": "exact"}}
        )
        return [str(problem) for problem in against_data(recipe)]

    (problem,) = told()
    assert problem.startswith(
        "evaluation.exact.a = 'exact': `exact` reads 2 documents of `b` with the text of one of `a`; leave such out"
    )
    assert told(withdrawn={"b": ["train/0/8", "train/0/9"]}) == []
