"""Settings of the GPU in the environment: whichever way a rank is started, before it imports torch; a value of the user
stays."""

import json
import os
import subprocess
import sys

import pytest

from perdure.launch import rank
from perdure.pipeline.core.gpu_settings import SETTINGS, add_gpu_settings
from perdure.pipeline.train.ranks import Node, rank_environments

SLURM = {
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"},
    **{"SLURM_CPUS_PER_TASK": "2", "MASTER_ADDR": "first", "MASTER_PORT": "29400"},
}


@pytest.fixture(autouse=True)
def without_settings(monkeypatch):
    for name in (*SETTINGS, "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def by_starter(monkeypatch) -> dict[str, str]:
    """`perdure run`, and `perdure.launch.node` of Kubernetes and SkyPilot."""
    return rank_environments(4, Node(count=2, rank=1))[0]


def by_slurm(monkeypatch) -> dict[str, str]:
    """srun, for training and the preflight."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS"):  # which it sets
        monkeypatch.setenv(name, "1")
    became: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execv", lambda *_: became.append(dict(os.environ)))
    rank.main("preflight", "/nowhere")
    return became[0]


def by_hand(monkeypatch) -> dict[str, str]:
    """`python -m perdure.pipeline.train.worker`, whose first step this is."""
    code = (
        "import json, os, sys; from perdure.pipeline.train import process; process.start_rank(); "
        "assert not {'torch', 'megatron'} & sys.modules.keys(); print(json.dumps(dict(os.environ)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("start", [by_starter, by_slurm, by_hand])
def test_every_way_of_starting_a_rank_has_them_and_keeps_the_users_own(monkeypatch, start):
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    found = start(monkeypatch)
    assert {name: found[name] for name in SETTINGS} == SETTINGS | {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}


def test_the_allocators_older_name_is_a_users_own_value():
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}
    add_gpu_settings(environment)
    assert "PYTORCH_ALLOC_CONF" not in environment and environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
