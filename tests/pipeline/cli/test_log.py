"""`perdure log`, `diff` and `branch` before anything ran; what they say of a run is in train/test_versions.py."""

import json

import pytest
import yaml

from perdure.pipeline.checks.check import load_checked
from perdure.pipeline.cli import entry
from perdure.pipeline.cli.log_text import print_diff, print_log
from perdure.pipeline.core.files import write_atomic
from perdure.pipeline.recipe import RecipeSource
from tests.pipeline.plan.paths import STEP, main_path, recipe_of, update


@pytest.fixture
def recipe(tmp_path):
    versions = {"main": main_path(20), "next": update("main", 5, schedule={"type": "decay"})}
    tree = recipe_of(tmp_path, versions).model_dump(mode="json")
    path = tmp_path / "main.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_the_log_of_a_run_that_has_not_begun(recipe, capsys):
    assert entry.main(["log", str(recipe)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny: initial model",
        "└── main  init, 20 steps of constant, waiting",
        "    └── next  update, 5 steps of decay, waiting",
    ]
    assert entry.main(["log", str(recipe), "--json"]) == 0
    main, following = json.loads(capsys.readouterr().out)["versions"]
    assert (main["status"], main["steps"], main["phases"], main["evaluation"]) == ("waiting", 0, None, None)
    assert following["parent"] == "main"


def test_what_is_left_is_said_of_new_data_alone(recipe, capsys):
    entry.main(["log", str(recipe), "--json"])
    versions = json.loads(capsys.readouterr().out)["versions"]
    line = {"total": 1000, "consumed": 320, "remaining": 680, "repeated": 0, "replayed": 0}
    versions[0] |= {"steps": 5, "phase": "constant", "learning_rate": 0.01, "status": "started"}
    versions[0]["sources"] = {"a": line | {"replayed": 64}, "b": line}
    print_log({"name": "tiny", "unit": "nats_per_token", "versions": versions[:1]})
    assert capsys.readouterr().out.splitlines()[-1].strip() == (
        "tokens not yet read as new data: a 680 of 1,000 (64 replayed), b 680 of 1,000"
    )


def test_what_computed_a_version_is_told_with_each_change(recipe, capsys):
    entry.main(["log", str(recipe), "--json"])
    versions = json.loads(capsys.readouterr().out)["versions"]
    assert versions[0]["kernels"] == []
    kernels = {"attention": "sdpa", "linears": "local", "fp8": None, "deterministic": True, "versions": {}}
    words = "attention sdpa; linears local; fp8 none; deterministic yes"
    for recorded, told in (
        ([kernels | {"step": 0}], [f"computed by: {words}"]),
        (
            [kernels | {"step": 0}, kernels | {"step": 4, "attention": "flash2"}],
            [
                f"computed by: from step 1 on: {words}",
                f"computed by: from step 5 on: {words.replace('sdpa', 'flash2')}",
            ],
        ),
    ):
        print_log(
            {"name": "tiny", "unit": "nats_per_token", "versions": [versions[0] | {"kernels": recorded}]}
        )
        assert [line.strip() for line in capsys.readouterr().out.splitlines()[2:]] == told


def test_a_difference_of_data_says_what_remaining_means(capsys):
    empty = {"versions": ["one", "two"], "recipe": [], "schedule": [], "data": [], "results": {}}
    empty["unit"] = "nats_per_token"
    print_diff(empty | {"data": ["tokens.a.remaining: 680 -> 360"]})
    assert capsys.readouterr().out.splitlines()[3:6] == [
        "data:",
        "  tokens.a.remaining: 680 -> 360",
        "  (remaining: tokens not read as new data yet; replay may have brought some of them in)",
    ]


def test_losses_are_in_bits_per_byte_where_tokens_hold_unlike_amounts_of_text(recipe, capsys, monkeypatch):
    """By the rule of the report: in two languages, say."""
    from perdure.pipeline.cli import log as module

    sizes = {"a": 400}

    def evaluation(directory, _on):
        shift = 0.5 * (directory.name == "next")
        texts = {"a": (4.0, sizes["a"]), "b": (5.0, sizes["b"])}
        domains = {
            name: {"loss": loss + shift, "bits_per_byte": loss / 4 + shift, "bytes": text, "tokens": 100}
            for name, (loss, text) in texts.items()
        }
        return {"domains": domains}

    for name, fake in {
        **{"is_finished": lambda _: True, "require_whole": lambda _: None, "evaluation": evaluation},
        **{"_measured_on": lambda _: {"max_tokens": 1}, "mixture_phases": lambda *_: None},
        "source_ledger": lambda *_: None,
    }.items():
        monkeypatch.setattr(module, name, fake)
    for size, unit, before, after in ((400, "nats per token", 5.0, 5.5), (300, "bits per byte", 1.25, 1.75)):
        sizes["b"] = size
        assert entry.main(["log", str(recipe)]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "held-out loss" in line]
        assert f"held-out loss ({unit}): a " in lines[0] and lines[0].endswith(f"b {before:.4f}")
        assert entry.main(["diff", str(recipe), "main", "next"]) == 0
        out = capsys.readouterr().out
        assert f"held-out loss ({unit}):" in out and f"  b {before:.4f} -> {after:.4f} (+0.5000)" in out


def test_the_difference_names_recipe_and_schedule(recipe, capsys):
    assert entry.main(["diff", str(recipe), "main", "next"]) == 0
    out = capsys.readouterr().out
    assert "main -> next" in out
    assert "  start.parent: None -> 'main'" in out
    assert f"  tokens: {20 * STEP} -> {5 * STEP}" in out
    assert "  type: 'constant' -> 'decay'" in out
    assert "data: the same" in out
    assert "  a - -> -" in out


def test_an_unknown_version_is_one_line_with_what_there_is(recipe, capsys):
    assert entry.main(["diff", str(recipe), "main", "nxt"]) == 2
    assert "no such version; did you mean `next`?" in capsys.readouterr().err


def test_a_parent_that_comes_later_is_refused(recipe, capsys):
    assert entry.main(["log", str(recipe), "--set", "versions.main.start={type: update, parent: next}"]) == 2
    assert "comes later" in capsys.readouterr().err


def test_a_branch_is_a_recipe_that_builds_on_the_other(recipe, tmp_path, capsys):
    arguments = ["branch", str(recipe), "main", "--at", "12", "--tokens", str(3 * STEP), "--min-lr", "1e-5"]
    assert entry.main(arguments) == 0
    printed = capsys.readouterr().out
    to = tmp_path / "deeper" / "january.yaml"
    assert entry.main([*arguments, "--name", "january", "--to", str(to)]) == 0
    assert to.read_text().replace("../", "").replace("january", "main-12") == printed
    version = load_checked(RecipeSource(to)).versions["january"]
    assert version.start.model_dump() == {"type": "branch", "parent": "main", "step": 12}
    assert version.tokens == 3 * STEP and version.schedule.min_lr == 1e-5
    assert version.mixture == load_checked(RecipeSource(recipe)).versions["main"].mixture


def test_a_branch_takes_no_name_that_a_version_has(recipe, capsys):
    arguments = ["branch", str(recipe), "main", "--at", "12", "--tokens", "1000", "--name", "next"]
    assert entry.main(arguments) == 2
    assert "--name = 'next': there is such a version; choose another name" in capsys.readouterr().err


def test_a_branch_off_a_checkpoint_that_will_not_be_is_refused(recipe, tmp_path, capsys):
    for step in (10, 20):
        write_atomic(tmp_path / "versions/main/checkpoints" / f"step_{step:06d}" / "_SUCCESS", "")
    assert entry.main(["branch", str(recipe), "main", "--at", "12", "--tokens", "1000"]) == 2
    error = capsys.readouterr().err
    assert "versions.main-12.start.step = 12: main has no checkpoint of step 12" in error
    assert "those of steps 10, 20." in error
    assert entry.main(["branch", str(recipe), "main", "--at", "21", "--tokens", "1000"]) == 2
    assert "should be at most 20, the steps of `main`" in capsys.readouterr().err
    assert entry.main(["branch", str(recipe), "mian", "--at", "2", "--tokens", "1000"]) == 2
    assert "did you mean `main`?" in capsys.readouterr().err
