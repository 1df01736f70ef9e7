"""What is asked of Slurm's queue."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.launch import queue
from perdure.launch.chain import Job
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.slurm import sbatch


@pytest.fixture
def scripted(tmp_path):
    """A folder with the scripts of four jobs."""
    for name in "abcd":
        (tmp_path / name).write_text("#!/bin/bash\n")
    return tmp_path


def test_sbatch_is_told_what_to_wait_for_and_a_refusal_leaves_nothing(scripted, monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        failed = command[-1].endswith("/c")
        return subprocess.CompletedProcess(command, int(failed), f"{len(calls)};main\n", "sbatch: error: no")

    monkeypatch.setattr(queue.subprocess, "run", run)
    scripts = [(Job("a"), scripted / "a"), (Job("b", after=("a",)), scripted / "b")]
    assert queue.submit(scripts, after="99") == {"a": "1", "b": "2"}
    assert "--dependency=afterok:99" in calls[0] and "--dependency=afterok:1" in calls[1]
    queue.submit([*scripts, (Job("d", after=("b",), behind=("a",)), scripted / "d")], after=None)
    assert "--dependency=afterok:4,afterany:3" in calls[-1]
    with pytest.raises(PerdureError, match="c: sbatch refused it: sbatch: error: no"):
        queue.submit([*scripts, (Job("c", after=("a", "b")), scripted / "c")], after=None)
    assert calls[-1][0] == "scancel" and len(calls[-1]) == 3


def test_what_tells_what_is_there_waits_for_jobs_that_fail_as_well(scripted, monkeypatch):
    """A sweep's table, behind runs of which one may not succeed; else it would stand in the queue for ever."""
    calls = []

    def run(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, f"{len(calls)}\n", "")

    monkeypatch.setattr(queue.subprocess, "run", run)
    scripts = [(Job(name), scripted / name) for name in "ab"]
    queue.submit([*scripts, (Job("c", after=("a", "b"), anyhow=True), scripted / "c")], after=None)
    assert not any("dependency" in word for call in calls[:2] for word in call)
    assert "--dependency=afterany:1:2" in calls[2] and "--kill-on-invalid-dep=yes" in calls[2]
    queue.submit([(Job("d", anyhow=True), scripted / "d")], after="99")
    assert "--dependency=afterany:99" in calls[3]


def test_what_stands_in_the_queue_is_not_submitted_again_and_never_cancelled(scripted, monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, int(command[-1].endswith("/c")), f"{len(calls)}\n", "no")

    monkeypatch.setattr(queue.subprocess, "run", run)
    scripts = [
        (Job("a"), scripted / "a"),
        (Job("b", after=("a",)), scripted / "b"),
        (Job("d"), scripted / "d"),
    ]
    assert queue.submit(scripts, None, {"a": "70"}) == {"a": "70", "b": "1", "d": "2"}
    assert [Path(call[-1]).name for call in calls] == ["b", "d"] and "--dependency=afterok:70" in calls[0]
    with pytest.raises(PerdureError, match="nothing new was left in the queue"):
        queue.submit([*scripts, (Job("c", after=("a",)), scripted / "c")], None, {"a": "70"})
    assert calls[-1] == ["scancel", "3", "4"]


RECORD = """#!{python} -IS
import json, os, sys
json.dump([sys.argv[1:], dict(os.environ)], open({file!r}, "w"))
print(7)
"""


@pytest.mark.parametrize("inside", [False, True])
def test_sbatch_sees_the_users_defaults_but_not_the_size_of_a_job_around_it(tmp_path, monkeypatch, inside):
    (tmp_path / "sbatch").write_text(RECORD.format(python=sys.executable, file=str(tmp_path / "seen")))
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    kept = {"SBATCH_ACCOUNT": "lab", "SBATCH_PARTITION": "gpu", "SBATCH_QOS": "long"}
    kept |= {"SLURM_CLUSTERS": "big", "SLURM_CONF": "/etc/slurm.conf"}
    of_a_job = {
        "SLURM_JOB_ID": "5",
        "SLURM_NTASKS": "8",
        "SLURM_MEM_PER_NODE": "4000",
        "SLURM_EXPORT_ENV": "ALL",
    }
    for name, value in (kept | of_a_job if inside else kept).items():
        monkeypatch.setenv(name, value)
    script = tmp_path / "job.sbatch"
    script.write_text("#!/bin/bash\n# A job.\n#SBATCH --partition=cpu\n#SBATCH --nodes=1\necho\n")
    assert sbatch(script, "data", ["--dependency=afterok:5"]) == "7"
    arguments, environment = json.loads((tmp_path / "seen").read_text())
    # What the recipe says stands on the command line, which alone overrules SBATCH_PARTITION; of two, the last one holds.
    ours = ["--dependency=afterok:5", str(script)]
    assert arguments == ["--parsable", "--partition=cpu", "--nodes=1", *ours]
    found = {key: value for key, value in environment.items() if key.startswith(("SLURM", "SBATCH"))}
    assert found == kept
