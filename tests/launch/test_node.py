"""Machines that a scheduler starts the same command on."""

import os
import socket
import subprocess
import sys

import pytest
from support import start_ranks
from tiny import prepare_version, tiny_recipe

from perdure.launch.node import PORT, main, this_node
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.train.ranks import Node


def test_every_scheduler_is_understood():
    ours = {
        **{"PERDURE_NODES": "4", "PERDURE_NODE_RANK": "2", "PERDURE_RANKS_PER_NODE": "8"},
        **{"PERDURE_MASTER_ADDR": "first.run", "PERDURE_MASTER_PORT": "29400"},
    }
    assert this_node(ours) == (Node(4, 2, "first.run", 29400), 8)
    kubeflow = {
        **{"PET_NNODES": "4", "PET_NODE_RANK": "2", "PET_NPROC_PER_NODE": "8"},
        **{"PET_MASTER_ADDR": "first.run", "PET_MASTER_PORT": "29400"},
    }
    assert this_node(kubeflow) == this_node(ours)
    sky = {
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n",
        "PERDURE_RANKS_PER_NODE": "8",
    }
    assert this_node(sky) == (Node(2, 1, "10.0.0.1", PORT), 8)
    with pytest.raises(PerdureError, match="no scheduler has said which machine this is"):
        this_node({})


def test_another_number_of_ranks_is_refused(tmp_path, monkeypatch, capsys):
    version = prepare_version(tiny_recipe(tmp_path, parallel__data_parallel=2))
    for name, value in {"NODES": "3", "NODE_RANK": "0", "RANKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"PERDURE_{name}", value)
    monkeypatch.setenv("PERDURE_MASTER_ADDR", "localhost")
    monkeypatch.setenv("PERDURE_MASTER_PORT", "1")
    assert main([str(version)]) == 1
    assert "needs 2 ranks, but 3 machines x 1 are here" in capsys.readouterr().err


@pytest.mark.slow
def test_two_machines_equal_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    changes = {"parallel__data_parallel": 2, "versions__v1__tokens": 32 * 8 * 8}
    one, two = (prepare_version(tiny_recipe(tmp_path / name, **changes)) for name in ("one", "two"))
    outcome = start_ranks(one, 2)
    assert outcome.returncode == 0, outcome.stderr
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"PERDURE_NODES": "2", "PERDURE_RANKS_PER_NODE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    common |= {"PERDURE_MASTER_ADDR": "127.0.0.1", "PERDURE_MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "perdure.launch.node", str(two)]
    machines = [
        subprocess.Popen(command, env=os.environ | common | {"PERDURE_NODE_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    weights = [read_json(version / "version.json")["weights_hash"] for version in (one, two)]
    assert weights[0] == weights[1]
