"""What ranks say to one another: recorded call by call, refused on the wrong device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from gpu.ledger import LEDGER, place
from gpu.tensor import CudaTensor
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

PEERS = {"send": "to", "recv_": "from"}
OBJECTS = (
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
)
"""Collectives that carry pickled values, whose sizes differ."""

NCCL: set[str] = set()
"""Names of the groups that train, over NCCL on a GPU; all others are gloo's."""

batches: list[int] = []
"""Number of the batch of transfers that is being posted, if one is."""

carrying: list[str] = []
"""The collective of Python values that is running, if one is."""


def run(func, name: str, args: tuple, kwargs: dict) -> Any:
    """Runs one operation of torch's c10d and records it, unless it carries a Python value."""
    groups = [unboxed(argument) for argument in args if isinstance(argument, torch.ScriptObject)]
    group = next(group for group in groups if group is not None)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not carrying:
        if name != "barrier":
            require_device(name, group, tensors)
        record(name, group, tensors, args)
    own = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, CudaTensor)}
    if name == "recv_" and dist.get_backend(group) == "fake":
        for tensor in own.values():
            tensor.inner.zero_()  # what nobody sends is a number nevertheless

    def inner(tensor: CudaTensor) -> Tensor:
        return tensor.inner

    result = func(*tree_map_only(CudaTensor, inner, args), **tree_map_only(CudaTensor, inner, kwargs))
    return tree_map_only(Tensor, lambda tensor: own.get(id(tensor), tensor), result)


def unboxed(argument: torch.ScriptObject) -> dist.ProcessGroup | None:
    """The process group among an operation's arguments; None for the others, which say how to reduce."""
    try:
        return dist.ProcessGroup.unbox(argument)
    except RuntimeError:
        return None


def require_device(name: str, group: dist.ProcessGroup, tensors: list[Tensor]) -> None:
    """Raises RuntimeError if NCCL is given a tensor of the CPU, or gloo one of the GPU."""
    nccl = group.group_name in NCCL
    if wrong := [tuple(x.shape) for x in tensors if isinstance(x, CudaTensor) != nccl]:
        devices = ("NCCL", "the CPU") if nccl else ("gloo", "the GPU")
        raise RuntimeError(f"{devices[0]} is given {wrong} of {devices[1]} for {name}, at {place()}")


def record(name: str, group: dist.ProcessGroup, tensors: list[Tensor], args: tuple) -> None:
    """Notes a call: what, among whom, how many elements of what type."""
    call: dict[str, Any] = {
        "name": name,
        "group": group.group_name,
        "ranks": dist.get_process_group_ranks(group),
        "place": place(),
    }
    if name != "barrier":
        call["sizes"] = [[x.numel(), str(x.dtype).removeprefix("torch.")] for x in tensors]
    if name in PEERS:
        call["peer"] = dist.get_global_rank(group, args[2])
        call["batch"] = batches[-1] if batches else None
    if name == "broadcast_":
        call["root"] = args[2]
    LEDGER.calls.append(call)


def install(real: bool) -> None:
    """Lets process groups be made as on GPUs, over gloo or, unless `real`, over the fake group that reaches nobody."""
    begin, make, post = dist.init_process_group, dist.new_group, dist.batch_isend_irecv
    bound: list[torch.device] = []

    def init_process_group(backend, device_id=None, store=None, **options):
        bound.extend([device_id] if device_id else [])
        if real:
            begin("gloo", store=store, **options)
        else:
            from torch.testing._internal.distributed.fake_pg import FakeStore

            begin(
                "fake",
                store=FakeStore(),
                **{name: options[name] for name in ("rank", "world_size")},
            )
        if backend == "nccl":
            NCCL.add(dist.group.WORLD.group_name)

    def new_group(*args, backend=None, **options):
        ranks = args[0] if args else options.get("ranks")
        if bound and backend == "gloo" and ranks is not None and dist.get_rank() not in ranks:
            raise RuntimeError(
                f"splits NCCL's world communicator, which no member of {ranks} does, at {place()}"
            )
        for name in ("pg_options", "device_id"):
            options.pop(name, None)
        group = make(*args, backend="gloo" if real else "fake", **options)
        if backend != "gloo" and isinstance(group, dist.ProcessGroup):
            NCCL.add(group.group_name)
        return group

    def batch_isend_irecv(operations):
        batches.append(len(LEDGER.calls))
        try:
            return post(operations)
        finally:
            batches.pop()

    for module in (dist, dist.distributed_c10d):
        module.init_process_group, module.new_group = init_process_group, new_group
        module.batch_isend_irecv = batch_isend_irecv
        for name in OBJECTS:
            setattr(module, name, carried(name, getattr(module, name), real))


def carried(name: str, call: Callable, real: bool) -> Callable:
    """A collective of Python values that is recorded as one call; over the fake group every rank gets its own values back."""

    def recorded(*args, **kwargs):
        if carrying:
            return call(*args, **kwargs)
        group = kwargs.get("group") or next(
            (argument for argument in args if isinstance(argument, dist.ProcessGroup)), dist.group.WORLD
        )
        if group.group_name in NCCL:
            LEDGER.wait(f"{name} over NCCL")
        record(name, group, [], args)
        if real:
            with as_one(name):
                return call(*args, **kwargs)
        if name == "all_gather_object":
            args[0][:] = [args[1] if len(args) > 1 else kwargs["obj"]] * len(args[0])
        return None

    return recorded


@contextmanager
def as_one(name: str) -> Iterator[None]:
    """What runs inside is part of one collective of Python values."""
    carrying.append(name)
    try:
        yield
    finally:
        carrying.pop()
