"""What jobs print."""

import signal
import subprocess
import sys

import pytest

from perdure.launch import logs
from perdure.launch.logs import LINES, TAIL, follow, log_files
from perdure.pipeline.core.errors import PerdureError


@pytest.fixture
def run(tmp_path):
    """A run whose data stage has begun to print."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "versions" / "v1" / "launch").mkdir(parents=True)
    (tmp_path / "launch" / "data.log").write_text("said\n")
    return tmp_path


def test_logs_are_those_of_a_version_or_of_all(run):
    log = run / "versions" / "v1" / "launch" / "train-v1.log"
    with pytest.raises(PerdureError, match="no job has written a log yet"):
        log_files(run, "v1")
    log.write_text("said\n")
    assert len(log_files(run, None)) == 2
    assert log_files(run, "v1") == [log]


def test_logs_of_jobs_that_begin_later_are_followed(run, monkeypatch):
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.01)
    first, later = run / "launch" / "data.log", run / "versions" / "v1" / "launch" / "train-v1.log"
    first.write_text("".join(f"{number}\n" for number in range(TAIL // 4)))
    said = follow(run, None)
    assert next(said) == (first, "".join(f"{TAIL // 4 - LINES + n}\n" for n in range(LINES)).encode())
    with first.open("a") as log:
        log.write("more\nhal")
    assert next(said) == (first, b"more\nhal")
    later.write_text("begun\n")
    assert next(said) == (later, b"begun\n")
    with first.open("a") as log:
        log.write("f\n")
    assert next(said) == (first, b"f\n")


def test_following_prints_whose_lines_they_are(run):
    first, later = run / "launch" / "data.log", run / "versions" / "v1" / "launch" / "train-v1.log"
    command = [sys.executable, "-m", "perdure.pipeline.cli", "logs", str(run), "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [f"==> {first} <==\n", "said\n"]
        later.write_text("begun\n")
        assert [process.stdout.readline() for _ in range(2)] == [f"==> {later} <==\n", "begun\n"]
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
