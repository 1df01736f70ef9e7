"""SwiGLU: Shazeer 2020, "GLU Variants Improve Transformer" (arXiv 2002.05202), equation 6."""

from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(x: Tensor, *, impl: Literal["auto", "triton", "torch"] = "auto") -> Tensor:
    """silu(gate) * up, where [gate, up] are the halves of the last dimension; differentiable.

    Args:
        x: [..., 2 F], fp32, bf16 or fp16.
        impl: `triton` makes one pass each way (CUDA, or the CPU under Triton's interpreter) and rounds once; `torch`
            is the reference; `auto` is `triton` on CUDA, if it is installed, and `torch` elsewhere.

    Returns:
        [..., F].
    """
    if impl == "auto":
        impl = "triton" if x.is_cuda and find_spec("triton") else "torch"
    return (_FusedSwiGLU if impl == "triton" else _SwiGLU).apply(x)


class _SwiGLU(torch.autograd.Function):
    """Writes the two gradients in place, instead of joining them afterwards."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors  # once: a recomputed layer makes them anew for every look
        gate, up = x.chunk(2, -1)
        result = torch.empty_like(x)
        grad_gate, grad_up = result.chunk(2, -1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return result


class _FusedSwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        from perdure.kernels.triton_elementwise import swiglu_forward

        ctx.save_for_backward(x)
        return swiglu_forward(x)

    @staticmethod
    def backward(ctx, grad):
        from perdure.kernels.triton_elementwise import swiglu_backward

        return swiglu_backward(ctx.saved_tensors[0], grad)
