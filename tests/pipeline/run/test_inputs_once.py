"""Input files are listed and fingerprinted once a command, whatever number of versions it has."""

import json
from collections import Counter
from unittest.mock import patch

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.check import problems
from perdure.pipeline.core.inputs_once import forget_inputs, inputs_read_once
from perdure.pipeline.data.read import inputs
from perdure.pipeline.data.stage import finished_data, run_data, tokenizer_directory
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.run.run import alone


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """Two sources, of several files each."""
    sources = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            lines = [json.dumps({"text": f"{name} {number} {line} words of a text"}) for line in range(20)]
            (tmp_path / name / f"{number}.jsonl").write_text("\n".join(lines))
        reader = {"type": "jsonl", "path": str(tmp_path / name)}
        sources[name] = {"reader": reader, "clean": [], "heldout_fraction": 0.2}
    tokenizer = {"type": "train", "vocab_size": 300, "sources": ["a", "b"]}
    return tiny_recipe(tmp_path / "out", sources=sources, tokenizer=tokenizer)


@pytest.fixture
def looks():
    """Counts what is listed and fingerprinted."""
    found, listed, edges = Counter(), inputs.files_below, inputs.edges

    def count(what, function):
        def counted(path, *arguments):
            found[what, path.name] += 1
            return function(path, *arguments)

        return counted

    with (
        patch.object(inputs, "files_below", count("listed", listed)),
        patch.object(inputs, "edges", count("edges", edges)),
    ):
        yield found


def everything(recipe: Recipe) -> None:
    """All that a command asks about its inputs, with a version more than it has."""
    assert not problems(recipe)
    with alone(recipe):
        run_data(recipe)
        for _version in range(3):
            tokenizer_directory(recipe.model_copy())
        assert all(finished_data(recipe.model_copy()).values())


def test_a_command_looks_at_its_inputs_once(recipe, looks):
    with inputs_read_once():
        everything(recipe)
    files = {("edges", f"{number}.jsonl"): 2 for number in range(3)}  # one of each source
    assert looks == {("listed", "a"): 1, ("listed", "b"): 1} | files


def test_another_command_looks_again(recipe, looks, tmp_path):
    with inputs_read_once():
        before = tokenizer_directory(recipe)
    (tmp_path / "a" / "3.jsonl").write_text('{"text": "more"}\n')
    with inputs_read_once():
        assert tokenizer_directory(recipe) != before
    assert looks["listed", "a"] == 2


def test_after_a_wait_for_another_command_inputs_are_looked_at_again(recipe, looks):
    with inputs_read_once():
        tokenizer_directory(recipe)
        forget_inputs()
        tokenizer_directory(recipe)
    assert looks["listed", "a"] == 2
