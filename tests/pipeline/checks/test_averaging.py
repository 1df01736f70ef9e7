"""What `check` says of averages: which are refused, and the decay that they equal."""

import pytest

from perdure.pipeline.checks.check import problems
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.cli.preview_text import print_preview
from perdure.pipeline.core.files import write_atomic
from perdure.pipeline.recipe import Recipe
from tests.pipeline.checks.template import found as told
from tests.pipeline.plan.paths import branch, main_path, recipe_of, update


def average(**fields) -> dict:
    return {"start": {"type": "average", "of": "main"} | fields, "tokens": 0}


def recipe_with(out, start: dict, keep=(), **changes) -> Recipe:
    out.mkdir(exist_ok=True)
    versions = {"main": main_path(20, keep=keep, **changes), "v1": branch(7, 2), "averaged": start}
    return recipe_of(out, versions)


def found(out, start: dict, keep=(), ema=None) -> dict[str, str]:
    recipe = recipe_with(out, start, keep)
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"ema": ema})})
    about = "versions.averaged."
    return {p.path.removeprefix(about): p.remedy for p in problems(recipe) if p.path.startswith(about)}


EVERY = {"every": 4}


@pytest.mark.parametrize(
    ("fields", "keep", "ema", "path", "remedy"),
    [
        ({}, EVERY, None, "start.last", "either `last`, how many, or `steps`"),
        ({"last": 2, "steps": [4, 8]}, EVERY, None, "start.last", "either `last`"),
        ({"steps": [8, 4]}, EVERY, None, "start.steps", "should rise"),
        ({"steps": [4, 4]}, EVERY, None, "start.steps", "should rise"),
        ({"shape": "ema"}, EVERY, None, "start.shape", "needs `training.ema`"),
        ({"shape": "ema", "last": 2}, EVERY, 0.9, "start.last", "has no use with `shape: ema`"),
        (
            {"steps": [4, 6, 9]},
            EVERY,
            None,
            "start.steps",
            "`main` keeps no checkpoint of step 6, 9; it keeps 4, 7, 8, 12, 16, 20; say so in versions.main.keep",
        ),
        ({"steps": [24]}, EVERY, None, "start.steps", "keeps no checkpoint of step 24"),
        ({"last": 6}, EVERY, None, "start.last", "`main` keeps 5 of its own: 4, 8, 12, 16, 20; say so"),
        ({"last": 2}, [], None, "start.last", "`main` keeps 1 of its own: 20; say so"),
    ],
)
def test_an_average_of_what_is_not_kept_or_not_said_is_refused(tmp_path, fields, keep, ema, path, remedy):
    about = found(tmp_path / "run", average(**fields), keep, ema)
    assert list(about) == [path]
    assert remedy in about[path] and "\n" not in about[path]


@pytest.mark.parametrize(
    ("fields", "keep"),
    [
        ({"last": 5}, EVERY),
        ({"last": 1}, []),
        ({"steps": [7, 20], "shape": "inverse_sqrt"}, []),  # 7 is kept for a branch
        ({"steps": [3], "shape": "linear"}, [3]),
        ({"shape": "ema"}, []),
    ],
)
def test_an_average_of_what_is_kept_is_right(tmp_path, fields, keep):
    assert found(tmp_path / "run", average(**fields), keep, ema=0.9) == {}


def test_budget_and_parents_of_an_average(tmp_path):
    assert "should be 0" in found(tmp_path / "1", average(last=1) | {"tokens": 256})["tokens"]
    gone = told("versions.averaged={start: {type: average, of: gone, last: 1}, tokens: 0}")
    assert "no such earlier version" in gone["versions.averaged.start.of"][1]
    assert "has no use" in found(tmp_path / "2", average(last=1) | {"keep": [3]})["keep"]
    twice = recipe_of(
        tmp_path,
        {"main": main_path(4), "once": average(last=1), "twice": average(of="once", last=1)},
    )
    (problem,) = problems(twice)
    assert problem.path == "versions.twice.start.of" and "has no checkpoints" in problem.remedy


def test_checkpoints_of_a_version_with_an_adapter_are_not_averaged(tmp_path):
    adapter = {"type": "lora", "rank": 2, "alpha": 4}
    versions = {
        "base": main_path(4),
        "main": update("base", 4) | {"adapter": adapter},
        "averaged": average(last=1),
    }
    about = {problem.path: problem.remedy for problem in problems(recipe_of(tmp_path, versions))}
    assert "trains an adapter" in about["versions.averaged.start.of"]


def test_checkpoints_that_a_finished_version_has_lost_are_named(tmp_path):
    (tmp_path / "run").mkdir()
    versions = {"main": main_path(20, keep=EVERY), "averaged": average(steps=[4, 8])}
    recipe = recipe_of(tmp_path / "run", versions)
    paths = recipe.paths.version("main")
    for step in (8, 20):
        write_atomic(paths.checkpoint(step) / "_SUCCESS", "")
    assert problems(recipe) == []
    write_atomic(paths.directory / "_SUCCESS", "{}")
    (problem,) = problems(recipe)
    assert problem.path == "versions.averaged.start.of"
    assert "has no checkpoint of step 4 in" in problem.remedy and "there are: 8, 20" in problem.remedy
    write_atomic(recipe.paths.version("averaged").directory / "_SUCCESS", "{}")
    assert problems(recipe) == []  # it is made already


def test_the_preview_draws_the_decay_that_an_average_equals(tmp_path, capsys):
    recipe = recipe_with(tmp_path / "run", average(last=4), EVERY)
    data = preview(recipe)
    main, _, averaged = data["versions"]
    assert main["equivalent_decay"] == [] and averaged["learning_rate"] == []
    # main's constant rate of 0.01, times 3/4, 2/4 and 1/4 between the checkpoints of 8, 12, 16 and 20.
    curve = dict(averaged["equivalent_decay"])
    assert list(curve) == list(range(8, 21))
    shares = [1.0] + [0.75] * 4 + [0.5] * 4 + [0.25] * 4
    assert list(curve.values()) == pytest.approx([0.01 * share for share in shares])
    print_preview(data)
    shown = capsys.readouterr().out
    assert "Version averaged: average of the last 4 checkpoints of main (uniform)" in shown
    assert "equals a learning rate of main that falls to 0.0025" in shown
    assert "step 8" in shown


def test_one_checkpoint_and_a_running_average_in_the_preview(tmp_path):
    one = preview(recipe_with(tmp_path / "one", average(last=1), EVERY))["versions"][2]
    assert one["equivalent_decay"] == [[20, pytest.approx(0.01)]]
    recipe = recipe_with(tmp_path / "ema", average(shape="ema"))
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"ema": 0.75})})
    curve = preview(recipe)["versions"][2]["equivalent_decay"]
    assert curve[0][0] == 0 and curve[-1] == [20, pytest.approx(0.01 * 0.25)]
    assert curve[-2] == [19, pytest.approx(0.01 * (1 - 0.75**2))]
