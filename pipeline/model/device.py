"""The device: CUDA with NCCL, or the CPU with gloo.

Megatron-core assumes CUDA. Where there is none, `install_cpu_backend` points its calls at the CPU, so that the same
trainer runs on a laptop; with CUDA present it does nothing.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.gpu_settings import add_gpu_settings
from perdure.pipeline.model.rendezvous import local_store

CPU = "cpu"
"""Where there is no GPU, the device's name in records."""


def timeout() -> timedelta:
    """Time that ranks wait for one another in a collective; jobs set it from `cluster.timeout_seconds`."""
    return timedelta(seconds=float(os.environ.get("PERDURE_TIMEOUT_SECONDS", "600")))


def initialise() -> torch.device:
    """Starts the process group from torchrun's environment and returns this rank's device.

    Without torchrun's environment, a group of one rank is made.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    options = {"rank": rank, "world_size": world_size, "timeout": timeout()}
    add_gpu_settings(os.environ)  # ranks have them from their start; commands that load a model do not
    if store := dist.HashStore() if world_size == 1 else local_store(timeout()):
        options["store"] = store
    # Threads of a CPU add in any order, too, in the embedding's backward pass. Not `warn_only`: attention's would take that as
    # leave to do so on GPUs.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # writes all memory once more; nothing reads it
    )
    if torch.cuda.is_available():
        local_rank, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= devices:
            raise PerdureError(
                f"{local_rank + 1} ranks on a machine with {devices} GPUs; make parallel smaller"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        # Without `device_id`: where it is given, a rank that is no member of a new group splits NCCL's world communicator, so
        # that members of a group over NCCL can (`_new_process_group_helper` of torch 2.11 to 2.13). Members of a group over
        # gloo never do, and the others would wait for them forever. Megatron and `collectives.part` make such groups.
        dist.init_process_group("nccl", **options)
        return device
    install_cpu_backend()
    dist.init_process_group("gloo", **options)
    return torch.device("cpu")


def devices() -> tuple[str, int]:
    """What trains, for the report's cost: a GPU's name and how many there are, or `cpu` and the number of cores in use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), dist.get_world_size()
    return CPU, dist.get_world_size() * torch.get_num_threads()


def used_memory() -> int | None:
    """Most bytes that tensors took on this rank's GPU since the process began; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def empty_host_cache() -> None:
    """Gives pinned memory that nothing uses back to the system; without CUDA there is none.

    torch rounds each block up to a power of two and keeps it. The next copy to the host pins its memory anew.
    """
    if torch.cuda.is_available():
        empty = getattr(torch.accelerator, "empty_host_cache", None)  # not in torch 2.11
        (empty or torch._C._host_emptyCache)()


def install_cpu_backend() -> None:
    """Makes CUDA calls of Megatron-core act on the CPU, for the rest of the process."""
    import megatron.core.tensor_parallel.random as megatron_random

    def no_op(*_args, **_kwargs):
        return None

    for module in (torch.cuda, torch.cuda.random):
        module.get_rng_state = lambda device=None: torch.get_rng_state()
        module.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
        module.manual_seed = lambda seed: torch.default_generator.manual_seed(seed)
    # A device, not a number: backward passes, which `_CudaToCpu` does not see, make tensors on it.
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.Stream = _NoStream
    torch.cuda.current_stream = torch.cuda.stream = _NoStream
    torch.cuda.synchronize = torch.cuda.empty_cache = no_op
    megatron_random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(
        state
    )
    _CudaToCpu().__enter__()


class _NoStream:
    """Stands for a CUDA stream."""

    def __init__(self, *_args, **_kwargs): ...
    def wait_stream(self, *_): ...
    def wait_event(self, *_): ...
    def synchronize(self): ...

    def record_event(self, *_):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_): ...


class _CudaToCpu(TorchFunctionMode):
    """Redirects tensor factories, `.cuda()` and `.to("cuda")` to the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if _names_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # The distributed optimizer sorts parameters by the names 'torch.cuda.FloatTensor', ...
            return func(*args).replace("torch.", "torch.cuda.")
        if func is torch.Tensor.to and len(args) > 1 and _names_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        return func(*args, **kwargs)


def _names_cuda(device) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )
