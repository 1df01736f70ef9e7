"""What is looked at before a job of many nodes."""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import prepare_version, tiny_recipe

from perdure.launch.preflight import MESSAGE_BYTES, checkpoint_bytes, facts, problems, write_failure
from perdure.launch.rank import COMMANDS, FROM_SLURM, cpus, meeting_place
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.shape import model_shape, num_parameters

CHECKPOINT = 10_000_000_000


def machine(number: int, **changes) -> dict:
    found = {
        **{"node": f"n{number}", "address": f"10.0.0.{number}", "python": "3.12.3", "torch": "2.13.0"},
        **{
            "megatron-core": "0.19.0",
            "triton": "3.4",
            "transformer_engine": None,
            "flash_attn_3": None,
            "kernels": None,
            "cuda": "12.8",
            "nccl": "2.27.3",
            "driver": "570.1",
        },
        **{"gpus": 8, "gpu": "H100", "recipe": "aa", "tokenizer": "bb", "data": "prose cc"},
        **{"interface": None, "writes": None, "free_bytes": 10 * CHECKPOINT},
        **{
            "shared_memory_bytes": 16 << 30,
            "open_files": 65536,
            "files_needed": 4096,
            "clock": 1000.0,
            "send_seconds": 0.01,
        },
    }
    return found | changes


def judged(**changes) -> list[str]:
    """Problems of four machines, of which the third is different."""
    return problems([machine(1), machine(2), machine(3, **changes), machine(4)], CHECKPOINT)


def test_like_machines_pass():
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"torch": "2.12.0"}, "n3: torch is 2.12.0, elsewhere 2.13.0"),
        ({"recipe": "dd"}, "n3: recipe is dd, elsewhere aa"),
        ({"gpus": 7}, "n3: gpus is 7, elsewhere 8"),
        ({"address": "127.0.1.1"}, "n3: its name resolves to 127.0.1.1; the others cannot reach that"),
        ({"address": None}, "n3: its name resolves to nothing"),
        ({"writes": "/runs/v cannot be written: Read-only file system"}, "n3: /runs/v cannot be written"),
        ({"interface": "no network interface ib0"}, "n3: no network interface ib0"),
        ({"free_bytes": 15_000_000_000}, "n3: 15 GB free, but two checkpoints take 20 GB"),
        ({"shared_memory_bytes": 64 << 20}, "n3: /dev/shm has 67.1 MB, at least 1.07 GB are needed"),
        ({"open_files": 1024}, "n3: 1,024 open files allowed, 4,096 are needed"),
        ({"clock": 1002.0}, "n3: its clock is +2.0 s off"),
        ({"clock": 997.5}, "n3: its clock is -2.5 s off"),
    ],
)
def test_what_differs_is_named_with_its_machine_and_both_values(changes, line):
    (found,) = judged(**changes)
    assert found.startswith(line)


def test_a_slow_machine_is_named_and_a_slow_link_by_both_ends():
    def links(*slow: int) -> list[str]:
        seconds = {True: 0.1, False: 0.01}
        machines = [machine(number, send_seconds=seconds[number in slow]) for number in range(1, 5)]
        return problems(machines, CHECKPOINT)

    rate, usual = f"{MESSAGE_BYTES / 0.1 / 1e6:.3g} MB/s", f"{MESSAGE_BYTES / 0.01 / 1e9:.3g} GB/s"
    assert links(2, 3) == [f"n3: sends at {rate}, the fastest at {usual}"]
    assert links(4, 1) == [f"n1: sends at {rate}, the fastest at {usual}"]
    assert links(2) == [f"n2 or n3: their link carries {rate}, the fastest {usual}"]
    assert links() == []


def test_one_machine_alone_may_be_called_localhost():
    assert problems([machine(1, address="127.0.1.1", send_seconds=None)], CHECKPOINT) == []


def test_a_checkpoint_holds_weights_moments_and_masters(tmp_path):
    recipe = tiny_recipe(tmp_path)
    parameters = num_parameters(model_shape(recipe), 300)
    assert checkpoint_bytes(recipe, 300) == 12 * parameters
    assert checkpoint_bytes(tiny_recipe(tmp_path, training__precision="bf16"), 300) == 14 * parameters


@pytest.fixture
def version(tmp_path):
    """A prepared version of two ranks, with a tokenizer's file and manifests of its data."""
    directory = prepare_version(tiny_recipe(tmp_path, parallel__data_parallel=2))
    inputs = read_json(directory / "inputs.json")
    (tmp_path / "tokenizer").mkdir(exist_ok=True)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    write_json(directory / "inputs.json", inputs | {"tokenizer": str(tmp_path / "tokenizer")})
    return directory


def test_facts_of_this_machine(version, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib7")
    found = facts(version)
    assert found["node"] == socket.gethostname() and found["writes"] is None
    assert found["interface"].startswith("no network interface ib7")
    assert json.dumps(found)
    assert [path.name for path in version.iterdir() if "preflight" in path.name] == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    assert write_failure(tmp_path) is None and not any(tmp_path.iterdir())
    assert (
        write_failure(tmp_path / "gone")
        == f"{tmp_path / 'gone'} cannot be written: No such file or directory"
    )


def started(version: Path, rank: int, port: str, prefix: tuple = (), **environment) -> subprocess.Popen:
    """One of two ranks of the preflight."""
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "1",
        "SLURM_CPUS_ON_NODE": "2",
    }
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "perdure.launch.rank", "preflight", str(version)],
        env=os.environ | common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("said", "threads"),
    [({"SLURM_CPUS_PER_TASK": "12"}, 12), ({"SLURM_NTASKS": "8"}, 16), ({"SLURM_NTASKS": "256"}, 1)],
)
def test_a_rank_has_a_thread_for_each_cpu_that_it_was_given(monkeypatch, said, threads):
    for name, value in {"SLURM_NNODES": "4", "SLURM_CPUS_ON_NODE": "32", **said}.items():
        monkeypatch.setenv(name, value)
    assert cpus() == threads


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.mark.slow
def test_ranks_meet_and_agree_or_say_why_not(version):
    port = free_port()
    ranks = [started(version, rank, port) for rank in range(2)]
    begun = time.monotonic()
    output = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert "preflight: 1 machines, 0 problems" in output[0] and output[1] == ""
    assert time.monotonic() - begun < 120
    assert set(FROM_SLURM) == {"RANK", "LOCAL_RANK", "WORLD_SIZE"} and set(COMMANDS) == {"train", "preflight"}


@pytest.mark.slow
def test_by_hand_ranks_ask_slurm_where_to_meet(version, tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames 127.0.0.[1-2]" ] && echo "127.0.0.1\n127.0.0.2"\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setenv("SLURM_JOB_NODELIST", "127.0.0.[1-2]")
    assert meeting_place() == {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000)}
    without = ("env", "-u", "MASTER_ADDR", "-u", "MASTER_PORT")
    ranks = [started(version, rank, "0", without) for rank in range(2)]
    output = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], output
    assert "preflight: 1 machines, 0 problems" in output[0][0]


def test_ranks_that_nobody_told_where_to_meet_say_so_in_one_line(version):
    command = [sys.executable, "-m", "perdure.launch.preflight", str(version)]
    environment = {key: value for key, value in os.environ.items() if key != "RANK"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: preflight: "))
    assert "environment variable RANK expected, but not set; start it by: srun python -m" in line


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a second host name needs root")
def test_a_machine_with_another_torch_and_another_recipe_is_refused(version, tmp_path):
    """Two machines: the second has a host name of its own, which nothing resolves."""
    other = shutil.copytree(version, tmp_path / "other")
    (other / "recipe.yaml").write_text((version / "recipe.yaml").read_text() + "# edited\n")
    fake = tmp_path / "packages" / "torch-2.0.1.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0.1\n")
    renamed = ("unshare", "--uts", "sh", "-c", 'hostname n2.invalid && exec "$@"', "sh")
    port = free_port()
    ranks = [
        started(version, 0, port),
        started(other, 1, port, renamed, PYTHONPATH=str(fake.parent)),
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1], errors
    ours, theirs = (hash_file(directory / "recipe.yaml")[:8] for directory in (version, other))
    for line in (
        f"n2.invalid: torch is 2.0.1, elsewhere {importlib.metadata.version('torch')}",
        f"n2.invalid: recipe is {theirs}, elsewhere {ours}",
        "n2.invalid: its name resolves to nothing; the others cannot reach that",
    ):
        assert f"error: preflight: {line}" in errors[0]
    assert "preflight" not in errors[1]  # one rank speaks for all
