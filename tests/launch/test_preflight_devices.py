"""The preflight makes every rank work, and names the one that is slow, wrong, broken, hung or never there."""

import json
import os
import subprocess

import pytest
from support import fork_ranks

from perdure.launch.preflight_devices import problems
from perdure.pipeline.train.ranks import free_port


def devices(*rates: float, **changes) -> list[dict]:
    """What four ranks of two machines found; changes are of the third."""
    found = [
        {"node": f"n{rank // 2}", "device": f"GPU {rank % 2}", "rank": rank, "tflops": rate}
        | {"sum": 10.0, "expected": 10.0, "reduce_seconds": 0.01}
        for rank, rate in enumerate(rates)
    ]
    found[2] |= changes
    return found


def test_a_slow_device_is_named_with_its_rate_beside_the_median():
    assert problems(devices(600.0, 610.0, 590.0, 605.0)) == []
    (line,) = problems(devices(600.0, 600.0, 150.0, 600.0))
    assert line.startswith(
        "n1: GPU 0 (rank 2) multiplies at 150 TFLOP/s, 25% of the median 600: every step would wait"
    )


def test_a_broken_device_and_a_wrong_sum_are_named():
    broken = devices(600.0, 600.0, 600.0, 600.0, failed="CUDA error: out of memory")
    del broken[2]["tflops"]
    assert problems(broken) == ["n1: GPU 0 (rank 2) cannot multiply: CUDA error: out of memory"]
    (line,) = problems(devices(600.0, 600.0, 600.0, 600.0, sum=9.0))
    assert line == "n1: GPU 0 (rank 2) got 9 from an all-reduce whose sum is 10"


def run(
    ranks: int, seconds: float, started: int | None = None, **wrong: int | str
) -> subprocess.CompletedProcess:
    """The ranks of two machines, of which only the first may be started."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    common |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environments = [
        os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank % 2)}
        for rank in range(started or ranks)
    ]
    return fork_ranks("launch.device_ranks", [json.dumps({"seconds": seconds, **wrong})], environments)


@pytest.mark.slow
def test_ranks_that_work_alike_are_told_in_one_line():
    done = run(3, 60)
    assert done.returncode == 0, done.stderr
    told, lines = done.stdout.strip().splitlines()
    assert told.startswith("preflight: 3 devices, products at ") and "all-reduce of 33.6 MB in " in told
    assert json.loads(lines) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"slow": 2}, "n1: process 0 (rank 2) multiplies at "),
        (
            {"fails": 1},
            "n0: process 1 (rank 1) cannot multiply: CUDA error: uncorrectable ECC error encountered",
        ),
        ({"wrong": 1}, "n0: process 1 (rank 1) got 2 from an all-reduce whose sum is 6"),
    ],
)
def test_a_rank_that_is_slow_broken_or_wrong_is_named(wrong, line):
    done = run(3, 60, **wrong)
    assert done.returncode != 0
    (found,) = json.loads(done.stdout.strip().splitlines()[-1])
    assert found.startswith(line)


@pytest.mark.slow
@pytest.mark.parametrize("hung", [0, 2])
def test_a_rank_that_hangs_is_named_and_all_end(hung):
    done = run(3, 6, hangs=hung)
    assert done.returncode != 0
    node = f"n{hung // 2}: process {hung % 2} (rank {hung})"
    expected = f"{node} has not finished a matrix product within 6 s; 2 of 3 ranks have"
    assert [line for line in done.stderr.splitlines() if "preflight" in line] == [
        f"error: preflight: {expected}"
    ]


@pytest.mark.slow
def test_an_all_reduce_that_ends_nowhere_is_told_once():
    done = run(2, 6, stuck=1)
    (line,) = [line for line in done.stderr.splitlines() if "preflight" in line]
    assert "no rank has finished an all-reduce within 6 s: look at cluster.network_interface" in line


@pytest.mark.slow
@pytest.mark.parametrize("broken", [1, "all"])
def test_an_all_reduce_that_fails_is_told_once_with_its_own_reason(broken):
    """Not as machines that did not meet, which they did."""
    done = run(2, 60, breaks=broken)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "preflight" in line]
    ranks = [1] if broken == 1 else [0, 1]
    said = "cannot add up with the others: NCCL error: unhandled system error"
    assert line in [f"error: preflight: n0: process {rank} (rank {rank}) {said}" for rank in ranks]


@pytest.mark.slow
def test_a_rank_that_never_comes_is_named_with_who_came():
    done = run(4, 5, started=3)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "came" in line]
    assert line == "rank 3 never came within 5 s; came: 2 of n0, 1 of n1"
