"""What is asked of Slurm's queue."""

import subprocess
from pathlib import Path

import pytest

from perdure.launch import queue
from perdure.launch.chain import Job
from perdure.pipeline.errors import PerdureError


def test_sbatch_is_told_what_to_wait_for_and_a_refusal_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        failed = command[-1] == "/c"
        return subprocess.CompletedProcess(command, int(failed), f"{len(calls)};main\n", "sbatch: error: no")

    monkeypatch.setattr(queue.subprocess, "run", run)
    scripts = [(Job("a"), Path("/a")), (Job("b", after=("a",)), Path("/b"))]
    assert queue.submit(scripts, after="99") == {"a": "1", "b": "2"}
    assert "--dependency=afterok:99" in calls[0] and "--dependency=afterok:1" in calls[1]
    queue.submit([*scripts, (Job("d", after=("b",), behind=("a",)), Path("/d"))], after=None)
    assert "--dependency=afterok:4,afterany:3" in calls[-1]
    with pytest.raises(PerdureError, match="c: sbatch refused it: sbatch: error: no"):
        queue.submit([*scripts, (Job("c", after=("a", "b")), Path("/c"))], after=None)
    assert calls[-1][0] == "scancel" and len(calls[-1]) == 3


def test_what_stands_in_the_queue_is_not_submitted_again_and_never_cancelled(monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, int(command[-1] == "/c"), f"{len(calls)}\n", "no")

    monkeypatch.setattr(queue.subprocess, "run", run)
    scripts = [(Job("a"), Path("/a")), (Job("b", after=("a",)), Path("/b")), (Job("d"), Path("/d"))]
    assert queue.submit(scripts, None, {"a": "70"}) == {"a": "70", "b": "1", "d": "2"}
    assert [call[-1] for call in calls] == ["/b", "/d"] and "--dependency=afterok:70" in calls[0]
    with pytest.raises(PerdureError, match="nothing new was left in the queue"):
        queue.submit([*scripts, (Job("c", after=("a",)), Path("/c"))], None, {"a": "70"})
    assert calls[-1] == ["scancel", "3", "4"]
