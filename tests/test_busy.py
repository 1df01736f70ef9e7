"""CPU time beside busy processes: what `python tests/busy.py` shows of the quickstart, in small."""

import sys

import pytest
from busy import LIMIT, compared, cost, times

PROGRAM = """
import os
os.environ.pop("OMP_WAIT_POLICY", None)
from perdure.pipeline.core.cores import sleep_while_waiting
if {ours}:
    sleep_while_waiting()
import time, torch
torch.set_num_threads(2)
matrix = torch.randn(256, 256)
own, both = time.thread_time(), time.process_time()
for _ in range(300):
    matrix.clone().tanh_()
    sum(range(100_000))  # the other thread has nothing to do
own, both = time.thread_time() - own, time.process_time() - both
print("helped", (both - own) / own)
"""


def test_cpu_time_hardly_grows_beside_busy_processes():
    assert times(compared([sys.executable, "-c", PROGRAM.format(ours=True)])) < LIMIT


def test_threads_that_have_nothing_to_do_sleep(capfd):
    for ours in (True, False):
        cost([sys.executable, "-c", PROGRAM.format(ours=ours)])
    ours, spinning = (
        float(line.split()[1]) for line in capfd.readouterr().err.splitlines() if "helped" in line
    )
    assert ours < 0.3 < spinning  # CPU time of the thread that waits, in that of the one that works


def test_processes_whose_parent_has_ended_are_counted():
    burn = "import time; exec('while time.process_time() < 1: pass')"
    left = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    assert cost([sys.executable, "-c", left]).cpu > 1


def test_a_command_that_fails_has_no_cost():
    with pytest.raises(SystemExit, match="failed"):
        cost([sys.executable, "-c", "exit(3)"])
