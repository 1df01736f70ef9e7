"""What an operation means on a pretended GPU: computed on the CPU, refused where a GPU would refuse, waits counted."""

import torch
from gpu import attention, collectives, pinned
from gpu.ledger import LEDGER, place
from gpu.tensor import CudaTensor, is_cuda
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

MIXES = {"copy_", "index", "index_put_", "_index_put_impl_", "_to_copy", "lift_fresh", "is_same_size"}
"""Operations that take tensors of two devices."""

REFUSED = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "_ctc_loss",
    "_ctc_loss_backward",
    "_embedding_bag_backward",
    "_embedding_bag_dense_backward",
    "avg_pool3d_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "histc",
    "kthvalue",
    "max_pool3d_with_indices_backward",
    "max_unpool2d",
    "max_unpool3d",
    "nll_loss2d_forward",
    "nll_loss2d_backward",
    "put_",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "replication_pad1d_backward",
    "replication_pad2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}
"""What raises on CUDA under deterministic algorithms, as torch's documentation of `use_deterministic_algorithms` lists it."""

SORTS = {
    "index_put_",
    "_index_put_impl_",
    "index_add_",
    "index_copy_",
    "scatter_add_",
    "embedding_dense_backward",
}
"""What sorts its indices on CUDA under deterministic algorithms."""

WAITS = {"nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "equal", "is_nonzero"}
"""What needs a number of the GPU to go on: the size of its result, or a truth."""


def dispatch(func, args: tuple, kwargs: dict):
    """Runs one operation of torch."""
    space, name = func._schema.name.split("::")
    if space == "c10d":
        return collectives.run(func, name, args, kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
    on_cuda = is_cuda(kwargs.get("device"))
    if not ours and not on_cuda:
        if kwargs.get("pin_memory"):
            return pinned.remember(func(*args, **kwargs | {"pin_memory": False}))
        return func(*args, **kwargs)
    if ours:
        refuse(func, name, tensors)
        note_waits(name, args)
    if name in ("copy_", "_to_copy"):
        return copy(func, name, args, kwargs)
    kwargs = dict(kwargs)
    if on_cuda:
        kwargs["device"] = "cpu"
    kwargs.pop("pin_memory", None)
    own = {id(tensor.inner): tensor for tensor in ours}
    compute = SPECIAL.get(f"{name}.{func._overloadname}", SPECIAL.get(name, func))
    result = compute(*plain(args), **plain(kwargs))
    # An operation in place returns its argument, and so must this one.
    return tree_map_only(
        Tensor, lambda tensor: own[id(tensor)] if id(tensor) in own else CudaTensor(tensor), result
    )


def plain(tree):
    """The same arguments with the tensors that hold the numbers."""
    return tree_map_only(CudaTensor, lambda tensor: tensor.inner, tree)


def refuse(func, name: str, tensors: list[Tensor]) -> None:
    """Raises RuntimeError where CUDA would: two devices, or no deterministic implementation."""
    if name not in MIXES:
        others = [tuple(x.shape) for x in tensors if not isinstance(x, CudaTensor) and x.dim()]
        if others:
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {func} gets {others} of the CPU, at {place()}"
            )
    if torch.are_deterministic_algorithms_enabled():
        adds = name in ("cumsum", "cumsum_") and tensors[0].is_floating_point()
        if name in REFUSED or adds:
            raise RuntimeError(f"{name} has no deterministic implementation on CUDA, at {place()}")
        if name in SORTS:
            LEDGER.sorts[f"{place()}: {name}"] += 1


def note_waits(name: str, args: tuple) -> None:
    """Counts what makes the host wait; `copy` counts copies."""
    if name in WAITS:
        LEDGER.wait(name)
    elif name == "_local_scalar_dense":
        LEDGER.wait("item")
    elif name in ("index", "index_put_", "_index_put_impl_"):
        indices = [index for index in args[1] if index is not None]
        # A mask that a single number is written through becomes `masked_fill`, whose size is known.
        filled = name != "index" and args[2].numel() == 1
        if not filled and any(index.dtype == torch.bool for index in indices):
            LEDGER.wait(f"{name} by a mask")
        if any(not isinstance(index, CudaTensor) for index in indices):
            LEDGER.wait(f"{name} by an index of the CPU")


def copy(func, name: str, args: tuple, kwargs: dict):
    """A copy, perhaps from one device to the other."""
    if name == "copy_":
        target, source = args[:2]
        to_cuda, non_blocking = isinstance(target, CudaTensor), (*args[2:], kwargs.get("non_blocking"))[0]
    else:
        # C++ takes ours for tensors of the CPU, and so says "cpu" when a type alone is asked for; `CudaTensor.to` copies to the
        # host.
        source, non_blocking = args[0], kwargs.get("non_blocking")
        to_cuda = isinstance(source, CudaTensor) or is_cuda(kwargs.get("device"))
        kwargs = kwargs | {"device": "cpu"}
    if to_cuda != isinstance(source, CudaTensor):
        on_host = source if to_cuda else args[0]
        direction = "copy to the GPU" if to_cuda else "copy to the host"
        if reason := pinned.reason_to_wait(direction, on_host, non_blocking):
            LEDGER.wait(reason)
        elif not to_cuda:
            pinned.fly(on_host, source.inner)
            return on_host
    result = func(*plain(args), **plain(kwargs))
    if name == "copy_":
        return args[0]
    return CudaTensor(result) if to_cuda else result


def scalar(value: Tensor):
    """The number that a tensor holds, as the host reads it."""
    return torch.ops.aten._local_scalar_dense(value)


def multiply(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """`torch.mm` with `out_dtype`, which CUDA alone has."""
    require_wider(a, b, out_dtype)
    return (a.float() @ b.float()).to(out_dtype)


def multiply_add(total: Tensor, a: Tensor, b: Tensor, out_dtype: torch.dtype, *, out: Tensor, **_scales):
    """`torch.addmm` with `out_dtype` into `out`, which CUDA alone has."""
    require_wider(a, b, out_dtype)
    if out.dtype != out_dtype or total.dtype not in (out_dtype, a.dtype):
        raise RuntimeError(f"addmm into {out.dtype} of {total.dtype} with out_dtype {out_dtype}")
    return out.copy_(torch.addmm(total.float(), a.float(), b.float()))


def require_wider(a: Tensor, b: Tensor, out_dtype: torch.dtype) -> None:
    """Raises RuntimeError unless cuBLAS multiplies these types into this one."""
    half = (torch.bfloat16, torch.float16)
    if a.dtype != b.dtype or not (out_dtype == a.dtype or (out_dtype == torch.float32 and a.dtype in half)):
        raise RuntimeError(f"no product of {a.dtype} and {b.dtype} into {out_dtype}")


SPECIAL = {
    "_local_scalar_dense": scalar,
    "mm.dtype": multiply,
    "mm.dtype_out": lambda a, b, out_dtype, *, out: out.copy_(multiply(a, b, out_dtype)),
    "addmm.dtype_out": multiply_add,
    "_varlen_attn": attention.forward,
    "_varlen_attn_backward": attention.backward,
}
"""Operations that the CPU does not have."""
