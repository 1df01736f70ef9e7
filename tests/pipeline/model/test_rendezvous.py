"""Ranks of one machine meet where no other machine can listen or speak."""

import ipaddress
import os
import socket
import subprocess
import sys
from datetime import timedelta

import psutil
import pytest

from perdure.pipeline.model.rendezvous import local_store

SETTINGS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")

RANK = """
import sys, psutil
from datetime import timedelta
from perdure.pipeline.model.device import initialise
import torch, torch.distributed as dist
initialise()
value = torch.ones(1)
dist.all_reduce(value)
listening = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
dist.barrier()
print(int(value), *listening)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def told(monkeypatch):
    """Sets what a rank is told; None takes it away."""

    def tell(*values: str | None) -> None:
        for name, value in zip(SETTINGS, values):
            monkeypatch.setenv(name, value or "")
            if value is None:
                monkeypatch.delenv(name)

    return tell


def test_a_store_of_one_machine_listens_on_loopback_alone(told):
    port = free_port()
    told("localhost", str(port), "0", "1")
    before = {c.laddr.port for c in psutil.Process().net_connections("inet")}
    store = local_store(timedelta(seconds=10))
    listening = {
        c.laddr.port: c.laddr.ip
        for c in psutil.Process().net_connections("inet")
        if c.status == psutil.CONN_LISTEN and c.laddr.port not in before
    }
    assert listening == {port: "127.0.0.1"}
    store.set("key", "value")
    assert store.get("key") == b"value"


@pytest.mark.parametrize(
    "values",
    [
        ("203.0.113.7", "29400", "0", "2"),
        ("nobody.invalid", "29400", "0", "2"),
        ("127.0.0.1", "29400", None, "2"),
        (None, None, None, None),
    ],
)
def test_several_machines_and_ranks_that_nobody_told_have_torchs_own(told, values):
    told(*values)
    assert local_store(timedelta(seconds=1)) is None


@pytest.mark.slow
def test_nothing_of_a_group_of_ranks_can_be_reached_from_outside():
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    common |= {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=os.environ | common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        value, *listening = rank.communicate(timeout=120)[0].split()
        assert value == "2" and listening
        assert all(ipaddress.ip_address(address).is_loopback for address in listening)
