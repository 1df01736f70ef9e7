import json
import os
import signal
import time

import pytest
from datatrove.pipeline.writers.jsonl import JsonlWriter

from perdure.pipeline.data.executor import LocalExecutor, building, worker_number, worker_pool
from perdure.pipeline.data.readers import JsonLines
from perdure.pipeline.errors import PerdureError


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


def number_of_worker(_task: int) -> tuple[int, int]:
    time.sleep(0.2)  # so that one worker cannot take all tasks
    return os.getpid(), worker_number()


def test_workers_are_numbered_whatever_their_tasks():
    with worker_pool(2, scoring=False) as pool:
        found = set(pool.map(number_of_worker, range(6)))
    assert len(dict(found)) == len(found), "a worker keeps its number"
    numbers = [number for _pid, number in found]  # one worker may do all the tasks before the other is up
    assert len(set(numbers)) == len(numbers) and set(numbers) <= {0, 1}
