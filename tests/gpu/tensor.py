"""A tensor that Python sees on `cuda` and whose numbers lie on the CPU, so that CUDA's branches run without a GPU.

C++ takes it for a tensor of the CPU, which is why autograd works on a build of torch without CUDA. Every operation on one
goes through `operations.dispatch`, which refuses what a GPU would refuse and notes what makes the host wait.
"""

import os

import torch
from gpu import pinned
from gpu.ledger import LEDGER, place
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CUDA_TYPES = {
    torch.float32: "FloatTensor",
    torch.bfloat16: "BFloat16Tensor",
    torch.float16: "HalfTensor",
    torch.float64: "DoubleTensor",
    torch.int64: "LongTensor",
    torch.int32: "IntTensor",
    torch.uint8: "ByteTensor",
    torch.bool: "BoolTensor",
}


def own_device() -> torch.device:
    """This rank's GPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def is_cuda(device: object) -> bool:
    """Whether an argument of torch names a GPU.

    Raises:
        RuntimeError: If it names another one than this rank's.
    """
    if device is None:
        return False
    named = torch.device(device)  # type: ignore[call-overload]
    if named.type == "cuda" and named.index not in (None, own_device().index):
        raise RuntimeError(f"rank of {own_device()} uses {named}, at {place()}")
    return named.type == "cuda"


class CudaTensor(Tensor):
    """A tensor on a pretended GPU; `inner` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    inner: Tensor

    def __new__(cls, inner: Tensor):
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="cpu",
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        from gpu.operations import dispatch

        return dispatch(func, args, kwargs or {})

    @property
    def device(self):
        return own_device()

    @property
    def is_cuda(self):
        return True

    @property
    def is_cpu(self):
        return False

    def get_device(self):
        return own_device().index

    @property
    def data(self):
        return CudaTensor(self.inner.detach())

    @data.setter
    def data(self, new):
        if not isinstance(new, CudaTensor):
            raise RuntimeError(f"data of the CPU is assigned to a tensor of the GPU, at {place()}")
        if (new.shape, new.dtype) == (self.shape, self.dtype):
            self.inner = new.inner.detach()
        else:
            become(self, new)

    def type(self, dtype=None, **_kwargs):
        return f"torch.cuda.{CUDA_TYPES[self.dtype]}" if dtype is None else self.to(dtype)

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and not is_cuda(device):
            found = self.inner.detach().to(dtype or self.dtype, copy=True)
            if non_blocking:  # the memory that torch allocates for it is pinned
                return pinned.fly(pinned.remember(torch.empty_like(found)), found)
            LEDGER.wait("copy to the host")
            return found
        return Tensor.to(self, dtype or self.dtype, copy=copy)

    def cpu(self, *_args, **_kwargs):
        return self.to("cpu")

    def cuda(self, *_args, **_kwargs):
        return self

    def tolist(self):
        LEDGER.wait("tolist")
        return self.inner.tolist()

    def numpy(self, **_kwargs):
        raise TypeError(f"can't convert a CUDA tensor to numpy, at {place()}")

    def __array__(self, *_args, **_kwargs):
        return self.numpy()

    def untyped_storage(self):
        return self.inner.untyped_storage()  # which Megatron empties and fills again

    def storage_offset(self):
        return self.inner.storage_offset()  # new data may lie elsewhere

    def data_ptr(self):
        return self.inner.data_ptr()

    def __repr__(self):
        return f"CudaTensor({self.inner})"

    def __deepcopy__(self, memo):
        return CudaTensor(self.inner.clone())

    def __reduce_ex__(self, protocol):
        raise RuntimeError(f"a CUDA tensor is pickled, at {place()}")


def become(parameter: Tensor, new: CudaTensor) -> None:
    """Gives a parameter other data, perhaps of another device or type; it stays the same object, with its attributes."""
    attributes = {
        name: value for name, value in parameter.__dict__.items() if name not in ("inner", "_is_param")
    }
    torch.utils.swap_tensors(parameter, torch.nn.Parameter(new, parameter.requires_grad))
    parameter.__dict__.update(attributes)


class Machine(TorchDispatchMode):
    """Sees the operations that no `CudaTensor` takes part in: those that make one, and copies."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        from gpu.operations import dispatch

        return dispatch(func, args, kwargs or {})
