"""Makes this process believe that it has a GPU: `torch.cuda`, Megatron's random states, parameters, Triton's launches."""

import types
from dataclasses import replace
from typing import Any, Literal

import torch
from gpu import collectives, elementwise, pinned
from gpu.ledger import LEDGER, place
from gpu.tensor import CudaTensor, Machine, become, is_cuda, own_device
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from triton.tools.tensor_descriptor import TensorDescriptor

GPUS, CAPABILITY = 8, (9, 0)
NAME = "NVIDIA H100 80GB HBM3"


Computed = Literal["interpreted", "by torch", "none"]
"""How Triton's launches are computed. `interpreted`: all by Triton's interpreter, a program at a time, which takes most of a
test's time. `by torch`: those of `elementwise.py` by torch's operations, the others interpreted. `none`: not at all."""


def install(real: bool = True, computed: Computed = "by torch") -> None:
    """For the rest of the process.

    Args:
        real: Whether ranks reach one another, over gloo, so that numbers are true under every layout.
        computed: How Triton's launches are.
    """
    install_cuda()
    install_parameters()
    install_launches(computed)
    pinned.install()
    collectives.install(real)
    Factories().__enter__()
    Machine().__enter__()


class Stream:
    """A CUDA stream or event: whatever was asked for is done already."""

    cuda_stream = 0

    def __init__(self, *_args, **_kwargs):
        self.device = own_device()

    def wait_stream(self, *_): ...
    def wait_event(self, *_): ...
    def wait(self, *_): ...
    def record(self, *_): ...
    def record_event(self, *_):
        return Stream()

    def query(self):
        pinned.land()
        return True

    def synchronize(self):
        LEDGER.wait("synchronize")

    def __enter__(self):
        return self

    def __exit__(self, *_): ...


class Factories(TorchFunctionMode):
    """`torch.tensor` and its like, which make their tensor before any operation is seen."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            scalars = [leaf for leaf in tree_leaves(args[0]) if isinstance(leaf, CudaTensor)]
            if scalars and not isinstance(args[0], Tensor):
                LEDGER.wait("torch.tensor of numbers on the GPU", len(scalars))
                args = (tree_map_only(CudaTensor, lambda tensor: tensor.inner.item(), args[0]), *args[1:])
            if kwargs.get("pin_memory"):
                return pinned.remember(func(*args, **kwargs | {"pin_memory": False}))
            if is_cuda(kwargs.get("device")) and not isinstance(args[0], CudaTensor):
                LEDGER.wait("copy to the GPU")
                return CudaTensor(func(*args, **kwargs | {"device": "cpu"}))
        if func is torch.Tensor.cuda:
            return args[0].to(own_device())
        return func(*args, **kwargs)


def install_cuda() -> None:
    """Stands in for `torch.cuda`."""
    import megatron.core.tensor_parallel.random as megatron_random

    def nothing(*_args, **_kwargs):
        return None

    cuda, properties = torch.cuda, types.SimpleNamespace(name=NAME, major=CAPABILITY[0], minor=CAPABILITY[1])
    properties.multi_processor_count, properties.total_memory = 132, 80 << 30
    state = torch.get_rng_state()
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "is_current_stream_capturing": False,
        "device_count": GPUS,
        "get_device_name": NAME,
        "get_device_capability": CAPABILITY,
        "get_device_properties": properties,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
    }
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_args, answer=answer, **_kwargs: answer)
    cuda.current_device = own_device
    cuda.synchronize = lambda *_: LEDGER.wait("synchronize")
    cuda.Stream = cuda.Event = Stream
    cuda.current_stream = cuda.default_stream = cuda.stream = lambda *_: Stream()
    for name in ("set_device", "empty_cache", "_lazy_init", "_lazy_call"):
        setattr(cuda, name, nothing)
    torch.accelerator.empty_host_cache = lambda: LEDGER.emptied.update([place()])
    for module in (cuda, cuda.random):
        module.get_rng_state = lambda device=None: state
        module.set_rng_state = module.manual_seed = module.manual_seed_all = nothing
    megatron_random._set_cuda_rng_state = megatron_random._lazy_call = nothing


def install_parameters() -> None:
    """Lets a parameter of the CPU move to the GPU in place, attributes and all, as torch does it."""

    def assign(self, new):
        if isinstance(new, CudaTensor):
            become(self, new)
        else:
            Tensor.data.__set__(self, new)

    torch.nn.Parameter.data = property(Tensor.data.__get__, assign)
    torch.inference_mode = torch.no_grad  # C++ refuses views of tensors like ours there
    torch._has_compatible_shallow_copy_type = lambda old, new: True


def install_launches(computed: Computed) -> None:
    """Records Triton's launches, with their arguments as Triton specialises on them, and computes them."""
    from triton.runtime.interpreter import InterpretedFunction

    interpret = InterpretedFunction.run

    def run(self, *args, grid, warmup, **options):
        tensors = [x.base if isinstance(x, TensorDescriptor) else x for x in args]
        tensors = [x for x in tensors if isinstance(x, Tensor)]
        if wrong := [tuple(x.shape) for x in tensors if not isinstance(x, CudaTensor)]:
            raise RuntimeError(f"{self.fn.__name__} is given {wrong} of the CPU, at {place()}")
        LEDGER.launches.append(
            {"module": self.fn.__module__, "kernel": self.fn.__name__, "grid": list(grid)}
            | {"arguments": [recorded(x) for x in args], "options": dict(options)}
        )
        if computed == "none":
            return None
        if computed == "by torch" and self.fn.__name__ in elementwise.BY_TORCH:
            return elementwise.BY_TORCH[self.fn.__name__](*map(on_cpu, args))
        if "UPCAST" in options:  # the interpreter multiplies the raw bits of bf16
            options["UPCAST"] = tensors[0].dtype != torch.float32
        return interpret(self, *map(on_cpu, args), grid=grid, warmup=warmup, **options)

    InterpretedFunction.run = run


def recorded(argument: Any) -> Any:
    """An argument of a launch as Triton specialises on it: of tensors the type and whether 16 divides the address."""
    if isinstance(argument, TensorDescriptor):
        sizes = {"shape": list(argument.shape), "strides": list(argument.strides)}
        return recorded(argument.base) | sizes | {"block_shape": argument.block_shape}
    if isinstance(argument, Tensor):
        return {"dtype": str(argument.dtype).removeprefix("torch."), "offset": offset(argument)}
    return argument


def on_cpu(argument: Any) -> Any:
    """An argument of a launch with the tensor that holds the numbers."""
    if isinstance(argument, TensorDescriptor):
        return replace(argument, base=argument.base.inner)
    return argument.inner if isinstance(argument, Tensor) else argument


def offset(tensor: CudaTensor) -> int:
    """Bytes by which a tensor's first element misses the 16 that CUDA's allocator aligns to."""
    return tensor.storage_offset() * tensor.element_size() % 16
