"""A recipe whose only mistakes are unknown fields is refused before any file of its sources is looked at."""

import builtins
import io
import os
import time
from pathlib import Path

import pytest
import yaml

from perdure.pipeline.cli.entry import main

TEMPLATE = Path(__file__).parents[3] / "data_recipes" / "quickstart.yaml"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A recipe whose sources are below a directory, and the accesses to it."""
    texts, accesses = tmp_path / "texts", []
    texts.mkdir()
    for number in range(200):
        (texts / f"{number}.txt").write_text("some text of a source " * 50)
    tree = yaml.safe_load(TEMPLATE.read_text())
    reader = {"type": "text", "path": str(texts)}
    tree["sources"] = {name: {"reader": reader} for name in tree["sources"]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))

    def watching(call):
        def watched(path, *arguments, **options):
            if isinstance(path, str | os.PathLike) and str(path).startswith(str(texts)):
                accesses.append(str(path))
            return call(path, *arguments, **options)

        return watched

    for module, name in ((os, "stat"), (os, "scandir"), (os, "listdir"), (builtins, "open"), (io, "open")):
        monkeypatch.setattr(module, name, watching(getattr(module, name)))
    monkeypatch.chdir(TEMPLATE.parents[1])
    return recipe, accesses


def test_files_of_sources_are_looked_at_by_a_check(watched, tmp_path):
    recipe, accesses = watched
    main(["check", str(recipe), "--out", str(tmp_path / "out")])
    assert accesses


def test_unknown_fields_are_told_before_any_file_is_looked_at(watched, tmp_path, capsys):
    recipe, accesses = watched
    begun = time.process_time()
    unknown = ["--set", "training.seq_lenght=64", "--set", "zzzz=1"]
    assert main(["check", str(recipe), "--out", str(tmp_path / "out"), *unknown]) == 2
    assert accesses == [] and time.process_time() - begun < 2
    error = capsys.readouterr().err
    assert "2 problems" in error
    assert "training.seq_lenght = 64: unknown field; did you mean `seq_length`?" in error


def test_other_mistakes_beside_them_are_told_with_those_of_the_files(watched, tmp_path, capsys):
    recipe, accesses = watched
    wrong = ["--set", "zzzz=1", "--set", "training.seq_length=none", "--out", str(tmp_path / "out")]
    assert main(["check", str(recipe), *wrong]) == 2
    assert accesses


def test_parents_are_judged_with_unknown_fields(watched, tmp_path, capsys):
    recipe, accesses = watched
    tree = yaml.safe_load(recipe.read_text())
    child = next(name for name, version in tree["versions"].items() if version.get("start", {}).get("parent"))
    wrong = ["--set", "zzzz=1", "--set", f"versions.{child}.start.parent=nobody"]
    assert main(["check", str(recipe), "--out", str(tmp_path / "out"), *wrong]) == 2
    assert accesses == [] and "nobody" in capsys.readouterr().err
