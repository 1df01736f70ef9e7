"""Where a run stands, from its files."""

import json
import os
import time

import pytest
import yaml
from support import tiny_recipe

from perdure.launch.status import lines, log_files, status
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.evaluate.words import duration_words
from perdure.pipeline.manifest import finish, write_json


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
    with pytest.raises(PerdureError, match="no job has written a log yet"):
        log_files(tmp_path, None)


def test_logs_are_those_of_a_version_or_of_all(run):
    for place in (run / "launch", run / "versions" / "v1" / "launch"):
        place.mkdir()
        (place / "job.log").write_text("said\n")
    assert len(log_files(run, None)) == 2
    assert log_files(run, "v1") == [run / "versions" / "v1" / "launch" / "job.log"]


def test_durations_read_like_clocks():
    assert [duration_words(seconds) for seconds in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]
