import json
import os
import signal

import pytest
from datatrove.pipeline.writers.jsonl import JsonlWriter
from support import number_of_worker

from perdure.pipeline.data.executor import Executor, building, worker_pool
from perdure.pipeline.data.readers import JsonLines
from perdure.pipeline.errors import PerdureError


def copying(tmp_path, pool) -> Executor:
    """Copies four documents, in four tasks."""
    lines = "".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(4))
    (tmp_path / "in.jsonl").write_text(lines)
    steps = [JsonLines(str(tmp_path), ["in.jsonl"]), JsonlWriter(str(tmp_path / "out"), compression=None)]
    return Executor(steps, 4, pool, tmp_path / "step")


def test_only_missing_tasks_run_again_and_counts_cover_all(tmp_path):
    with worker_pool(2, scoring=False) as pool:
        reader, writer = copying(tmp_path, pool).run()
        assert reader["in"] == writer["total"] == 4
        for name in ("00001", "00003"):
            (tmp_path / "out" / f"{name}.jsonl").unlink()
        (tmp_path / "step" / "completions" / "00003").unlink()
        assert copying(tmp_path, pool).run()[0]["in"] == 4
    assert sorted(path.name[:5] for path in (tmp_path / "out").iterdir()) == ["00000", "00002", "00003"]


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
