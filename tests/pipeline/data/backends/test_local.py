import importlib.util
import json
import os
import shutil
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import failing
import pytest
from datatrove.pipeline.writers.jsonl import JsonlWriter
from messages import messages
from support import number_of_worker
from tiny import tiny_llama

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.remembered_hashes import VERIFIED
from perdure.pipeline.data.backends import remote_executor
from perdure.pipeline.data.backends.local import LocalExecutor, building, worker_pool
from perdure.pipeline.data.read.readers import JsonLines
from perdure.pipeline.data.score import scorer
from perdure.pipeline.data.score.score import ReferenceModel, score_source
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.recipe import Recipe


def copying(tmp_path, pool) -> LocalExecutor:
    """Copies four documents, in four tasks."""
    lines = "".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(4))
    (tmp_path / "in.jsonl").write_text(lines)
    steps = [JsonLines(str(tmp_path), ["in.jsonl"]), JsonlWriter(str(tmp_path / "out"), compression=None)]
    return LocalExecutor(steps, 4, pool, tmp_path / "step")


def test_only_missing_tasks_run_again_and_counts_cover_all(tmp_path):
    with worker_pool(2, scoring=False) as pool:
        reader, writer = copying(tmp_path, pool).run()
        assert reader["in"] == writer["total"] == 4
        for name in ("00001", "00003"):
            (tmp_path / "out" / f"{name}.jsonl").unlink()
        (tmp_path / "step" / "completions" / "00003").unlink()
        assert copying(tmp_path, pool).run()[0]["in"] == 4
    assert sorted(path.name[:5] for path in (tmp_path / "out").iterdir()) == ["00000", "00002", "00003"]


def test_a_process_that_does_several_tasks_counts_each_once(tmp_path):
    with worker_pool(1, scoring=False) as pool:
        executor = copying(tmp_path, pool)
        for rank in range(4):
            executor._run_for_rank(rank)
        reader, writer = executor.counts()
    assert reader["in"] == writer["total"] == 4


def test_a_killed_worker_is_an_error_that_says_what_to_do(tmp_path):
    with worker_pool(1, scoring=False) as pool:
        os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(
            PerdureError, match=r"worker process was killed, .* lower data.workers or raise data.tasks"
        ):
            while True:
                copying(tmp_path, pool).run()
                (tmp_path / "step" / "completions" / "00000").unlink()


def test_an_artefact_appears_whole_or_not_at_all(tmp_path):
    final = tmp_path / "clean" / "a@1"
    with pytest.raises(OSError, match="stop"), building(tmp_path, final) as work:
        (work / "artefact" / "x").write_text("half")
        raise OSError("stop")
    assert not final.exists()
    with building(tmp_path, final) as work:
        assert (work / "artefact" / "x").read_text() == "half"
        (work / "step" / "logs").mkdir(parents=True)
        (work / "step" / "logs" / "task_00000.log").write_text("log")
    assert (final / "x").exists() and not list((tmp_path / "work").iterdir())
    assert (tmp_path / "logs" / "clean.a@1" / "step.task_00000.log").read_text() == "log"


@pytest.mark.parametrize("move", ["task_00000.log", "task_00001.log", "artefact"])
def test_killed_before_any_of_the_last_moves_and_run_again_nothing_is_lost_or_left(
    tmp_path, monkeypatch, move
):
    final, replace = tmp_path / "clean" / "a@1", os.replace

    class Killed(BaseException):
        pass

    def killed(source, target):
        if source.name == move:
            raise Killed
        replace(source, target)

    def build():
        with building(tmp_path, final) as work:
            if not (work / "step").exists():  # tasks run once
                (work / "step" / "logs").mkdir(parents=True)
                for task in range(2):
                    (work / "step" / "logs" / f"task_{task:05d}.log").write_text(f"log {task}")
                (work / "artefact" / "x").write_text("whole")

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        build()
    assert not final.exists()
    build()
    assert (final / "x").read_text() == "whole" and not list((tmp_path / "work").iterdir())
    logs = sorted((tmp_path / "logs" / "clean.a@1").iterdir())
    assert [log.read_text() for log in logs] == ["log 0", "log 1"]


def test_what_is_left_of_finished_work_is_not_gone_on_with(tmp_path):
    """Half deleted: marks of completed tasks, whose results are gone."""
    (tmp_path / "work" / "clean.a@1" / "step" / "completions").mkdir(parents=True)
    with building(tmp_path, tmp_path / "clean" / "a@1") as work:
        assert [path.name for path in work.iterdir()] == ["artefact"]


def test_workers_are_numbered_whatever_their_tasks():
    with worker_pool(2, scoring=False) as pool:
        found = set(pool.map(number_of_worker, range(6)))
    assert len(dict(found)) == len(found), "a worker keeps its number"
    numbers = [number for _pid, number in found]  # one worker may do all the tasks before the other is up
    assert len(set(numbers)) == len(numbers) and set(numbers) <= {0, 1}


@pytest.mark.parametrize(
    ("free", "said"), [(1000, "the disk is full"), (1 << 30, "it was killed (memory, time limit, lost node)")]
)
def test_tasks_that_could_not_say_why_they_failed(tmp_path, monkeypatch, free, said):
    with worker_pool(1, scoring=False) as pool:
        executor = copying(tmp_path, pool)
        executor.begin()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    error = executor.failure([1, 2], lambda rank: Path(f"{rank}.log"))
    assert f"task 1 of 4 failed: {said}; its log: 1.log; tasks 2 are not whole either" in str(error)


needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="NO RAY TESTED HERE: ray not installed (perdure[ray])"
)


def on_ray(recipe: Recipe) -> Recipe:
    tree = recipe.model_dump(mode="json")
    tree["data"]["executor"] = {"type": "ray", "score_gpus": 0}
    tree["cluster"]["environment"] = {"PYTHONPATH": str(Path(failing.__file__).parent)}
    return Recipe.model_validate(tree)


@pytest.mark.slow
@needs_ray
def test_on_ray_failures_are_named_and_only_they_are_done_again(make_recipe, texts, tmp_path):
    (tmp_path / "broken").touch()
    steps = [failing.Failing(tmp_path)]
    with remote_executor(on_ray(make_recipe({"a": texts})), False) as execute:
        with pytest.raises(PerdureError) as failed:
            execute(steps, failing.TASKS, tmp_path / "work" / "step")
        log = tmp_path / "work" / "step" / "logs" / "task_00001.log"
        assert "this text is in no language" in log.read_text()
        (tmp_path / "broken").unlink()
        before = (tmp_path / "ran").read_text().split()
        (counts,) = execute(steps, failing.TASKS, tmp_path / "work" / "step")
    assert str(failed.value).startswith(
        f"work: step: task 1 of 4 failed: this text is in no language; its log: {log}; tasks 2 are not whole either"
    )
    assert sorted((tmp_path / "ran").read_text().split()[len(before) :]) == ["1", "2"]
    assert counts["documents"] == 1 + 2 + 3 + 4


@pytest.mark.slow
@needs_ray
def test_ray_writes_what_local_workers_do_though_its_scorers_are_killed(
    make_recipe, texts, tmp_path, monkeypatch
):
    tiny_llama(tmp_path / "model", 500)
    recipes = [make_recipe({"a": texts[:30]}, out=tmp_path / where) for where in ("local", "ray")]
    model = ReferenceModel(tmp_path / "model", "ref", 16, 5)
    (data,) = run_data(recipes[0]).values()
    with messages() as lines:
        score_source(data, model, workers=2)
    (line,) = lines
    assert line.startswith("scoring a with ref: ") and line.endswith(" tokens")
    recipe = on_ray(recipes[1])
    (data,) = run_data(recipe).values()
    monkeypatch.setattr(scorer, "Scorer", failing.KilledOnce)
    score_source(data, model, workers=2, executor=remote_executor(recipe, scoring=True))
    assert len(list(tmp_path.glob("model/*.killed"))) == recipe.data.tasks
    local, ray = (contents(tmp_path / where) for where in ("local", "ray"))
    assert local == ray and any(name.endswith(".ref.bin") for name in local)


def contents(out: Path) -> dict[str, bytes]:
    """Artefacts by name, but for what is remembered of their files where these were finished long enough before."""
    found = (path for part in ("clean", "data") for path in (out / part).rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in found if path.name != VERIFIED}


@needs_ray
def test_a_missing_ray_cluster_is_said(make_recipe, texts):
    tree = on_ray(make_recipe({"a": texts})).model_dump(mode="json")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        for address, reason in [
            ("auto", ": Could not find any"),
            (nobody, rf" at {nobody} \(.*refused\); start one \(`ray start --head`\), or correct `data.exec"),
            (f"ray://{nobody}", rf" at ray://{nobody} \(.*refused\); start one"),
        ]:
            tree["data"]["executor"]["address"] = address
            there = remote_executor(Recipe.model_validate(tree), False)
            with pytest.raises(PerdureError, match=rf"data.executor: no Ray cluster answers{reason}"), there:
                pass


def test_a_machine_without_slurm_is_said(make_recipe, texts, tmp_path, monkeypatch):
    tree = make_recipe({"a": texts}).model_dump(mode="json")
    tree["data"]["executor"] = {"type": "slurm"}
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        remote_executor(Recipe.model_validate(tree), False) as execute,
        pytest.raises(
            PerdureError, match=r"data.executor: scontrol: not found; run this on a node that submits"
        ),
    ):
        execute([failing.Failing(tmp_path)], 4, tmp_path / "work" / "step")
