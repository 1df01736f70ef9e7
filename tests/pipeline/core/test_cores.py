"""Threads sleep while they wait, in every process that Perdure starts; waiting for cores is measured and told."""

import os
import subprocess
import sys
import time

import dill
import pytest
from busy import busy
from tiny import tiny_recipe

from perdure.launch import node
from perdure.pipeline.cli import entry
from perdure.pipeline.core import cores
from perdure.pipeline.core.cores import crowded_line, grown, number_of_cores, thread_times

VERB = """
from perdure.pipeline.cli import entry
entry.VERBS["status"] = lambda options: __import__("torch")
entry.main(["status", "."])
"""


class ImportsTorch:
    """Stands for the steps of a task: loading it imports torch."""

    def __reduce__(self):
        return __import__, ("torch",)


@pytest.fixture
def commands(tmp_path):
    """A command for every process of ours that no other one of ours has started; each imports torch."""
    (tmp_path / "task.pik").write_bytes(dill.dumps(ImportsTorch()))
    return {
        "verb": ["-c", VERB],
        "rank": ["-m", "perdure.pipeline.train.worker", str(tmp_path), "train"],
        "Slurm's task": ["-m", "perdure.pipeline.data.backends.slurm", str(tmp_path / "task.pik")],
    }


@pytest.mark.parametrize(
    "process, own, spins",
    [
        ("verb", {}, "0"),
        ("rank", {}, "0"),
        ("Slurm's task", {}, "0"),
        ("verb", {"GOMP_SPINCOUNT": "77"}, "77"),
        ("verb", {"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"),
    ],
)
def test_openmp_is_told_to_sleep_unless_the_user_says_otherwise(commands, process, own, spins):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, *commands[process]],
        env=plain | own | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_waiting_for_a_core_is_measured_for_all_that_a_process_starts():
    number = 2 * number_of_cores()
    with busy(number):
        before, begun = thread_times(os.getpid()), time.monotonic()
        time.sleep(2)
        ran, waited = grown(before, thread_times(os.getpid()))
        seconds = time.monotonic() - begun
    # Twice as many as there are cores: each waits at least as long as it runs.
    assert 0 < ran < 1.1 * seconds * number_of_cores() and waited > 0.7 * ran


def test_threads_that_end_between_two_looks_do_not_count():
    assert grown({1: (5, 5), 2: (10**9, 0)}, {2: (3 * 10**9, 10**9), 3: (10**9, 10**9)}) == (3.0, 2.0)


@pytest.mark.parametrize(
    "ran, waited, said",
    [(30, 10, "25%"), (10, 30, "75%"), (31, 9, None), (2, 7, None)],  # the last: nearly nothing to do
)
def test_an_oversubscribed_machine_is_told_of_with_what_it_means(ran, waited, said):
    line = crowded_line(ran, waited)
    assert bool(line) == (said is not None)
    if said:
        left = 100 - int(said.rstrip("%"))
        assert f"waited {said} of the time for one of {number_of_cores()} cores" in line
        assert f"tokens/s are {left}%, or less" in line


@pytest.fixture
def crowd(monkeypatch):
    """More processes than cores, all of which came from this one, and short windows."""
    monkeypatch.setattr(cores, "WINDOW", 0.2)
    with busy(2 * number_of_cores() + 1):
        yield


def test_a_command_tells_while_it_runs_but_not_again_and_again(monkeypatch, capsys, crowd):
    monkeypatch.setitem(entry.VERBS, "status", lambda options: time.sleep(2))  # several windows
    assert entry.main(["status", "."]) == 0
    output, errors = capsys.readouterr()
    assert output == "" and errors.count("oversubscribed: ") == errors.count("\n") == 1


def test_a_machine_among_several_tells_of_its_ranks(monkeypatch, capsys, crowd, tmp_path):
    monkeypatch.setattr(node, "start", lambda *arguments, **options: time.sleep(2))
    node.run_version(tmp_path, tiny_recipe(tmp_path), node.Node(), 1)
    assert capsys.readouterr().err.startswith("oversubscribed: ")
