"""Processes that write checkpoints: killed, hanging, slow, or late."""

import fcntl
import os
import signal
import subprocess
import time
import uuid

import psutil
import pytest
from soak import often
from support import on_rank, start_ranks
from tiny import prepare_version, tiny_recipe

from tests.pipeline.train.starters import command, on_checkpoint_rank

pytestmark = pytest.mark.slow


def test_a_killed_ranks_helpers_die_with_it(tmp_path):
    version = prepare_version(tiny_recipe(tmp_path, versions__v1__tokens=32 * 8 * 200))
    mark = uuid.uuid4().hex

    def marked():
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PERDURE_TEST_MARK") == mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    starter = subprocess.Popen(
        command(version),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PERDURE_TEST_MARK": mark},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    while not (version / "checkpoints" / "step_000010").exists():
        assert starter.poll() is None
        time.sleep(0.02)
    (rank,) = [
        process for process in psutil.Process(starter.pid).children() if "worker" in str(process.cmdline())
    ]
    assert len(marked()) > 2  # a manager, beside the starter and the rank
    rank.send_signal(signal.SIGKILL)
    _, errors = starter.communicate(timeout=120)  # ends only when nobody holds the pipe
    assert b"exit status -9); killed, most likely because memory ran out" in errors
    deadline = time.monotonic() + 30
    while found := marked():
        assert time.monotonic() < deadline, [process.cmdline() for process in found]
        time.sleep(0.05)


def test_a_killed_writer_is_noticed_by_all_ranks(tmp_path):
    parallel = {"tensor_parallel": 2}
    version = prepare_version(tiny_recipe(tmp_path, parallel=parallel))
    first, second = on_checkpoint_rank("killed_writer", version, ranks=2)
    assert "a process that was saving (of rank 1) was killed, most likely because memory ran out" in first
    assert second.endswith("nothing was saved; rank 0 says why")
    assert [path.name for path in (version / "checkpoints").iterdir()] == [".step_000001.1"]


def test_a_dead_rank_ends_those_that_wait_for_its_files(tmp_path):
    heard = on_checkpoint_rank("dead_rank", tmp_path, ranks=2)
    assert heard != "nothing" and "Timed out" not in heard  # a connection that is closed or reset


def test_no_collective_with_a_time_limit_waits_for_a_slow_writer(tmp_path):
    version = prepare_version(tiny_recipe(tmp_path, parallel={"tensor_parallel": 2}))
    assert on_checkpoint_rank("slow_writer", version, ranks=2) == ["step_000001", "step_000002"]


@pytest.mark.parametrize(("hanging", "said"), [(2, "step_000001"), (5, "5 processes that should save")])
def test_a_writer_that_hangs_as_it_is_forked_is_replaced(tmp_path, hanging, said):
    version = prepare_version(tiny_recipe(tmp_path))
    (found,) = on_checkpoint_rank("hanging_writers", version, hanging)
    assert said in found


def test_killed_time_and_again_while_saving_the_newest_whole_checkpoint_is_right(tmp_path):
    """Every rank checks that each number in what it loads is the step that the state and the name say."""
    version = prepare_version(tiny_recipe(tmp_path))
    kills = often(6, 20)
    found = on_rank("killed_while_saving", version, kills, script="saves.py")
    assert found["steps"] == sorted(found["steps"])
    assert found["steps"][-1] > kills / 2
    assert found["partial"] >= kills / 2, found  # kills fell into saves


def suspended_between_commits(rank, version):
    """Suspends a rank, unless it holds the fence, for which its successor would wait."""
    rank.suspend()
    with (version / "fence").open("r+") as fence:
        try:
            fcntl.flock(fence, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            rank.resume()
            return False


def test_a_start_that_wakes_up_late_cannot_commit(tmp_path):
    version = prepare_version(tiny_recipe(tmp_path, versions__v1__tokens=32 * 8 * 60))
    with subprocess.Popen(
        command(version), env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    ) as stale:
        while not (version / "checkpoints" / "step_000010").exists():
            assert stale.poll() is None
            time.sleep(0.005)
        (rank,) = [
            child for child in psutil.Process(stale.pid).children() if "worker" in str(child.cmdline())
        ]
        while not suspended_between_commits(rank, version):
            time.sleep(0.01)
        outcome = start_ranks(version, 1)
        assert outcome.returncode == 0, outcome.stderr
        before = {path: path.stat().st_mtime_ns for path in version.rglob("*") if path.is_file()}
        rank.resume()
        errors = stale.communicate(timeout=300)[1]
    assert stale.returncode != 0 and "start 2 of this version has taken over from start 1" in errors
    after = {path: path.stat().st_mtime_ns for path in version.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {
        path for path in after if path.parent.name == "tb" or ".step_" in str(path)
    }
