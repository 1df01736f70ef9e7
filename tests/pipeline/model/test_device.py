"""The settings of a rank on a GPU; there is none here, so that torch's calls are recorded instead."""

import os

import pytest
import torch
import torch.distributed as dist
from support import on_rank

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.model.device import empty_host_cache, initialise


@pytest.fixture
def machine(monkeypatch):
    """A machine with two GPUs."""
    called = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: called.update(device=device))
    monkeypatch.setattr(
        dist,
        "init_process_group",
        lambda *backend, **options: called.update(
            options, backend=backend, algorithms=os.environ["NCCL_ALGO"]
        ),
    )
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NCCL_ALGO", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)
    yield called
    torch.use_deterministic_algorithms(False)


def test_every_operation_on_a_gpu_has_one_order(machine, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert initialise() == machine["device"] == torch.device("cuda", 1)
    assert machine["backend"] == ("nccl",) and machine["algorithms"] == "^NVLS"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    # With `warn_only`, attention's backward pass would not be deterministic.
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_no_device_is_bound(machine):
    """A bound one makes torch split NCCL's communicator for groups over gloo, on the ranks that are not in them alone."""
    initialise()
    assert "device_id" not in machine and machine["backend"] == ("nccl",)


@pytest.mark.parametrize("called", ["accelerator", "torch 2.11"])
def test_pinned_memory_is_given_back_under_every_torch(machine, monkeypatch, called):
    found = []
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: found.append("accelerator"))
    if called == "torch 2.11":
        monkeypatch.delattr(torch.accelerator, "empty_host_cache")
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: found.append("torch 2.11"), raising=False)
    empty_host_cache()
    assert found == [called]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    empty_host_cache()
    assert found == [called]


def test_settings_of_the_site_stay(machine, monkeypatch):
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    initialise()
    assert machine["algorithms"] == "Ring"


def test_more_ranks_than_gpus_are_one_line(machine, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(PerdureError, match="3 ranks on a machine with 2 GPUs"):
        initialise()


@pytest.mark.slow
def test_threads_of_a_cpu_add_in_the_same_order_every_time(tmp_path):
    assert on_rank("embedding_gradients", tmp_path, threads=2)
