"""Launched on a real Slurm cluster of two nodes: whole chains, and training jobs that something befalls."""

import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import failing
import pytest
import slurm_cluster
import yaml

from perdure.launch.attempt import attempts, newest_step
from perdure.launch.status import status
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.data.backends.slurm_scripts import log_options
from perdure.pipeline.data.score.score import ReferenceModel, score_source
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.recipe import load_recipe
from tests.launch.cluster_jobs import (
    HANDED_OVER,
    INTERVAL,
    SCORE,
    STEPS,
    TREE,
    begin_again,
    contents,
    kill_a_rank,
    kill_the_daemon,
    launch,
    logs,
    preempt,
    ranks,
    tell_to_save,
    wait_for_attempt,
    wait_for_step,
)

ABSENT = slurm_cluster.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ABSENT is not None, reason=f"NO SLURM CLUSTER TESTED HERE: {ABSENT}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory) -> tuple[Path, Path]:
    """A chain that nothing befell: the recipe's folder and the run's."""
    folder = tmp_path_factory.mktemp("launched run")  # a path with a space
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(300)]
    lines = [json.dumps({"text": " ".join(rng.choices(words, k=60))}) for _ in range(200)]
    (folder / "prose.jsonl").write_text("\n".join(lines))
    (folder / "small.yaml").write_text(yaml.safe_dump(TREE))
    ids = launch(cluster, folder, folder / "out")
    assert set(cluster.wait(ids.values(), 500).values()) == {"COMPLETED"}, logs(folder / "out")
    return folder, folder / "out"


def test_a_chain_ends_with_a_version_and_a_report(undisturbed):
    _, out = undisturbed
    found = status(out)
    (version,) = found["versions"]
    assert version["state"] == "finished" and version["step"] == STEPS and version["attempts"] == 1
    assert [source["state"] for source in found["sources"]] == ["finished"]
    assert (out / "report" / "index.html").exists()
    recorded = read_json(out / "versions" / "base" / "version.json")
    assert recorded["parallel"]["data_parallel"] == 2


def test_what_comes_before_a_script_opens_its_log_is_in_it(cluster, tmp_path):
    folder, script = tmp_path / "50%j", tmp_path / "early.sbatch"
    folder.mkdir()
    options = [f"#SBATCH {option}" for option in log_options(folder, "early.log")]
    late = f"exec >> {shlex.quote(str(folder / 'early.log'))} 2>&1"
    script.write_text("\n".join(["#!/bin/bash", *options, "no_such_command", late, "echo late", ""]))
    done = cluster.on(slurm_cluster.CONTROLLER, "sbatch", "--parsable", str(script), cwd=tmp_path)
    cluster.wait([done.stdout.strip()], 60)
    early, late = (folder / "early.log").read_text().splitlines()
    assert "no_such_command: command not found" in early and late == "late"
    assert not list(tmp_path.glob("slurm-*"))


def test_arrays_write_what_local_workers_do(cluster, undisturbed, tmp_path, monkeypatch):
    folder, out = undisturbed
    monkeypatch.chdir(folder)
    assert len(list(out.glob("logs/clean.prose@*/01_exact_dedup.sign.slurm_*_[01].log"))) == 2
    file, model = out / "launch" / "recipe.yaml", out / "versions" / "base" / "hf"
    (data,) = (out / "data").iterdir()
    command = [sys.executable, "-c", SCORE, str(file), str(data), str(model)]
    scored = cluster.on(slurm_cluster.CONTROLLER, *command, cwd=folder)
    assert scored.returncode == 0, scored.stderr
    assert f"data.{data.name}.scores.base@" in scored.stdout and "2 of 2 tasks are Slurm job" in scored.stdout
    (data,) = run_data(load_recipe(file, ["data.executor={type: local}"], out=tmp_path)).values()
    score_source(data, ReferenceModel(model, "base", 64), workers=2)
    for part in ("clean", "data"):
        assert contents(tmp_path / part) == contents(out / part)


def test_only_the_tasks_that_failed_are_done_again(cluster, undisturbed, tmp_path):
    (tmp_path / "broken").touch()
    (tmp_path / "hold").touch()
    recipe = undisturbed[1] / "launch" / "recipe.yaml"
    command = [sys.executable, failing.__file__, str(recipe), str(tmp_path)]
    handed = cluster.environment | HANDED_OVER
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": handed}
    with subprocess.Popen(cluster.command(slurm_cluster.CONTROLLER, *command), **pipes) as killed:
        submitted = re.fullmatch(r"work.step: 4 of 4 tasks are Slurm job (\d+)\n", killed.stdout.readline())
        killed.kill()  # its array goes on
    with subprocess.Popen(cluster.command(slurm_cluster.CONTROLLER, *command), **pipes) as failed:
        assert (
            failed.stdout.readline() == f"work.step: waiting for Slurm job {submitted[1]} of an earlier run\n"
        )
        (tmp_path / "hold").unlink()
        said = failed.communicate(timeout=300)[1]
    log = tmp_path / "work" / "step" / "logs" / f"slurm_{submitted[1]}_1.log"
    assert failed.returncode == 1
    assert (
        f"work: step: task 1 of 4 failed: this text is in no language; its log: {log}; tasks 2 are not"
        in said
    )
    assert "this text is in no language" in log.read_text()
    (tmp_path / "broken").unlink()
    again = cluster.on(slurm_cluster.CONTROLLER, *command, env=handed)
    assert again.returncode == 0 and again.stdout.endswith("\n10\n"), again
    assert sorted((tmp_path / "ran").read_text().split()) == list("011223")


@pytest.mark.parametrize("disturb", [(tell_to_save, kill_a_rank), (preempt, kill_the_daemon)])
def test_whatever_befalls_it_a_job_ends_as_if_undisturbed(cluster, undisturbed, tmp_path, disturb):
    job, version = begin_again(cluster, undisturbed, tmp_path)
    for number, befall in enumerate(disturb, start=1):
        wait_for_attempt(version, number)
        wait_for_step(version, newest_step(version) + INTERVAL)
        befall(cluster, job)
    assert cluster.wait([job], 400) == {job: "COMPLETED"}, logs(version)
    assert len(attempts(version)) >= 3, logs(version)
    steps = [attempt["step"] for attempt in attempts(version)]
    assert steps == sorted(steps) and INTERVAL <= steps[1] < steps[2]
    expected = read_json(undisturbed[1] / "versions" / "base" / "version.json")["weights_hash"]
    assert read_json(version / "version.json")["weights_hash"] == expected
    assert read_json(version / "eval.json") == read_json(undisturbed[1] / "versions" / "base" / "eval.json")


def test_a_cut_link_leaves_no_stale_writer(cluster, undisturbed, tmp_path):
    job, version = begin_again(cluster, undisturbed, tmp_path)
    wait_for_step(version, INTERVAL)
    (rank, *_) = ranks(cluster, "n1")  # rank 0, which commits
    cluster.link("n1", up=False)
    try:
        time.sleep(2)
        committed = newest_step(version)
        deadline = time.monotonic() + 60
        while Path(f"/proc/{rank}").exists():
            assert time.monotonic() < deadline, "the rank that was cut off is still there"
            time.sleep(0.5)
        assert newest_step(version) == committed
    finally:
        cluster.link("n1", up=True)
    assert cluster.wait([job], 200) == {job: "COMPLETED"}, logs(version)
    expected = read_json(undisturbed[1] / "versions" / "base" / "version.json")["weights_hash"]
    assert read_json(version / "version.json")["weights_hash"] == expected


def test_a_job_that_cannot_succeed_is_given_up(cluster, undisturbed, tmp_path):
    job, version = begin_again(cluster, undisturbed, tmp_path)
    wait_for_step(version, INTERVAL)
    (version / "plan" / "plan.json").unlink(missing_ok=True)
    shutil.rmtree(version / "plan")
    kill_a_rank(cluster, job)
    assert cluster.wait([job], 400) == {job: "FAILED"}, logs(version)
    assert "given up: 3 attempts in a row left no checkpoint after step" in logs(version)
    assert not is_finished(version)
