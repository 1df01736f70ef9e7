"""Where a run stands, from its files."""

import json
import os
import time

import pytest
import yaml
from tiny import tiny_recipe

from perdure.launch.status import lines, status
from perdure.pipeline.cli import entry
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.recipe import load_recipe
from perdure.pipeline.run.run import alone


@pytest.fixture
def run(tmp_path):
    """A prepared run of one version, 20 steps of 8 x 32 tokens."""
    recipe = tiny_recipe(tmp_path)
    version = tmp_path / "versions" / "v1"
    version.mkdir(parents=True)
    (version / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return tmp_path


def write_metrics(run, steps: int, torn: str = "") -> None:
    rows = [
        {"step": step, "loss": 5 - step / 10, "tokens_per_second": 1024.0} for step in range(1, steps + 1)
    ]
    (run / "versions" / "v1" / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + torn
    )


def test_a_version_goes_through_its_states(run):
    version = run / "versions" / "v1"

    def state() -> str:
        return status(run)["versions"][0]["state"]

    assert state() == "waiting"
    write_json(version / "inputs.json", {})
    assert state() == "prepared"
    write_metrics(run, 7)
    assert state() == "training"
    write_metrics(run, 20)
    assert state() == "evaluating"
    finish(version, {})
    assert state() == "finished"


@pytest.mark.parametrize("name", ["metrics.jsonl", "launch/attempts.jsonl", "inputs.json"])
def test_a_directory_in_a_files_place_is_one_line(run, capsys, name):
    write_metrics(run, 7)
    path = run / "versions" / "v1" / name
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    assert entry.main(["status", str(run)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ") and "s a directory" in said and "; " in said
    assert "--debug" not in said and said.count("\n") == 1


def test_progress_is_read_from_the_last_whole_line(run):
    write_metrics(run, 12, torn='{"step": 13, "lo')
    path = run / "versions" / "v1" / "metrics.jsonl"
    os.utime(path, (time.time() - 90, time.time() - 90))
    checkpoint = run / "versions" / "v1" / "checkpoints" / "step_000010"
    checkpoint.mkdir(parents=True)
    finish(checkpoint, {})
    (version,) = status(run)["versions"]
    assert (version["step"], version["steps"], version["checkpoint"]) == (12, 20, 10)
    assert version["loss"] == pytest.approx(3.8)
    assert version["eta_seconds"] == pytest.approx((20 - 12) * 8 * 32 / 1024)
    assert version["seconds_since_step"] == pytest.approx(90, abs=20)
    (line,) = (line for line in lines(status(run)) if line.startswith("v1"))
    assert "training  step 12/20  1,024 tokens/s  ETA 0:02  last step 1:3" in line and "checkpoint 10" in line


def test_an_old_step_that_nobody_works_on_is_interrupted(run):
    write_metrics(run, 7)
    file = run / "versions" / "v1" / "metrics.jsonl"

    def seen(seconds: float) -> dict:
        os.utime(file, (time.time() - seconds, time.time() - seconds))
        return status(run)["versions"][0]

    assert seen(110)["state"] == "training"
    old = seen(130)
    assert (old["state"], old["tokens_per_second"], old["eta_seconds"]) == ("interrupted", None, None)
    (line,) = (line for line in lines(status(run)) if line.startswith("v1"))
    assert line == "v1        interrupted  step 7/20  last step 2:10 ago  checkpoint none"
    with alone(load_recipe(run / "versions" / "v1" / "recipe.yaml")):
        assert seen(610)["state"] == "training"
    file.write_text('{"step": 7, "loss": 5.0, "tokens_per_second": 1.0}\n')  # 256 s a step
    assert seen(2550)["state"] == "training"
    assert seen(2570)["state"] == "interrupted"


def test_the_newest_recipe_counts(run, tmp_path):
    """A version that was added after the launch is there."""
    launched = tiny_recipe(tmp_path)
    versions = {"v1": launched.versions["v1"], "v2": launched.versions["v1"]}
    added = run / "versions" / "v2" / "recipe.yaml"
    added.parent.mkdir()
    added.write_text(
        yaml.safe_dump(launched.model_copy(update={"versions": versions}).model_dump(mode="json"))
    )
    file = run / "launch" / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(launched.model_dump(mode="json")))

    def names() -> list[str]:
        return [version["name"] for version in status(run)["versions"]]

    os.utime(file, (time.time() + 60, time.time() + 60))
    assert names() == ["v1"]
    os.utime(file, (time.time() - 60, time.time() - 60))
    assert names() == ["v1", "v2"]
    # A version that a run of a sweep shares was prepared by another one's recipe.
    for name in ("v1", "v2"):
        place = (run / "versions" / name).rename(run / name)
        (run / "versions" / name).symlink_to(place)
    assert names() == ["v1"]


def test_sources_and_attempts_are_counted(run):
    finish_data = run / "data" / "a@0123abcd"
    finish_data.mkdir(parents=True)
    finish(finish_data, {})
    (run / "data" / "b@0123abcd").mkdir()
    (run / "versions" / "v1" / "launch").mkdir()
    (run / "versions" / "v1" / "launch" / "attempts.jsonl").write_text('{"step": 0}\n{"step": 4}\n')
    found = status(run)
    assert {source["name"]: source["state"] for source in found["sources"]} == {
        "a": "finished",
        "b": "waiting",
    }
    assert found["versions"][0]["attempts"] == 2
    assert "data      1 of 2 sources; waiting: b" in lines(found)


def test_tasks_under_way_are_counted(run):
    for step, done in (("01_exact_dedup.sign", 4), ("01_exact_dedup.match0", 1), ("tokenise", 0)):
        (run / "work" / "clean.a@0123abcd" / step / "completions").mkdir(parents=True)
        (run / "work" / "clean.a@0123abcd" / step / "tasks").write_text("4\n")
        for rank in range(done):
            (run / "work" / "clean.a@0123abcd" / step / "completions" / f"{rank:05d}").touch()
    found = [(work["step"], work["done"], work["tasks"]) for work in status(run)["work"]]
    assert found == [("01_exact_dedup.match0", 1, 4), ("tokenise", 0, 4)]
    assert "          clean.a@0123abcd: 01_exact_dedup.match0, 1 of 4 tasks done" in lines(status(run))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(PerdureError, match="no run of Perdure here"):
        status(tmp_path)
    (tmp_path / "work").mkdir()
    with pytest.raises(
        PerdureError, match="the data stage alone has begun here; `perdure data inspect RECIPE`"
    ):
        status(tmp_path)


def launched_with(run, tmp_path, monkeypatch, states: dict[str, str]) -> None:
    """A chain of one job, and a queue that knows these states."""
    write_json(run / "launch" / "jobs.json", {"jobs": {"train-v1": "7"}})
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    rows = "".join(f"echo '{job}|{state}|None'\n" for job, state in states.items())
    (tools / "squeue").write_text(f"#!/bin/sh\n{rows}")
    (tools / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"7": "RUNNING"}, "training"),
        ({"7": "COMPLETING"}, "training"),
        ({"7": "CANCELLED"}, "interrupted"),
        ({"7": "PENDING"}, "interrupted"),
        ({}, "interrupted"),  # forgotten
        ({"7": "FAILED", "9": "RUNNING"}, "training"),  # submitted by hand
    ],
)
def test_what_the_queue_does_not_run_is_interrupted(run, tmp_path, monkeypatch, states, expected):
    launched_with(run, tmp_path, monkeypatch, states)
    write_metrics(run, 7)
    (run / "versions" / "v1" / "launch").mkdir()
    (run / "versions" / "v1" / "launch" / "attempts.jsonl").write_text('{"attempt": "9.1", "step": 0}\n')
    found = status(run)
    assert found["versions"][0]["state"] == expected
    (line,) = (line for line in lines(found) if line.startswith("v1"))
    assert ("tokens/s" in line and "ETA" in line) == (expected == "training") and "step 7/20" in line


def test_a_command_that_works_here_overrules_an_old_queue(run, tmp_path, monkeypatch):
    launched_with(run, tmp_path, monkeypatch, {"7": "CANCELLED"})
    write_metrics(run, 7)
    with alone(load_recipe(run / "versions" / "v1" / "recipe.yaml")):
        assert status(run)["versions"][0]["state"] == "training"
    assert status(run)["versions"][0]["state"] == "interrupted"


def test_without_a_queue_nothing_is_said_of_it(run, tmp_path, monkeypatch):
    launched_with(run, tmp_path, monkeypatch, {})
    write_metrics(run, 7)
    for script in ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None):
        if script is None:
            monkeypatch.setenv("PATH", str(tmp_path))
        else:
            (tmp_path / "tools" / "squeue").write_text(f"#!/bin/sh\n{script}\n")
        found = status(run)
        assert found["jobs"] == [{"name": "train-v1", "id": "7", "state": "unknown: no queue to ask here"}]
        assert found["versions"][0]["state"] == "training"


def test_the_speed_is_a_mean_over_steps(run):
    rows = [{"step": 1, "loss": 5, "tokens_per_second": 1.0}]
    rows += [
        {"step": step, "loss": 5, "tokens_per_second": 1000.0 if step % 2 else 500.0} for step in range(2, 13)
    ] + [{"step": step, "loss": 5, "tokens_per_second": 800.0} for step in (13, 14, 15, 16, 17, 18)]
    file = run / "versions" / "v1" / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (version,) = status(run)["versions"]
    seconds = 6 / 500 + 5 / 1000 + 6 / 800 + 1
    assert version["tokens_per_second"] == pytest.approx(18 / seconds)
