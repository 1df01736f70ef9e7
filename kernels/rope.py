"""Rotary position embedding: Su et al. 2021 (arXiv 2104.09864), equation 15, in the half-split layout of Llama."""

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor


def rotary(
    x: Tensor, cosine: Tensor, sine: Tensor, *, impl: Literal["auto", "triton", "torch"] = "auto"
) -> Tensor:
    """Rotates every head; differentiable in `x`.

    Args:
        x: [sequence, batch, heads, head_dim], fp32, bf16 or fp16; any strides, but the last is 1.
        cosine: [sequence, 1, 1, head_dim / 2], as `x`, of position times frequency.
        sine: As `cosine`.
        impl: `triton` makes one pass (CUDA, or the CPU under Triton's interpreter) and rounds once; `torch` is the
            reference; `auto` is `triton` on CUDA, if it is installed, and `torch` elsewhere.

    Returns:
        As `x`, contiguous.
    """
    if impl == "auto":
        impl = "triton" if x.is_cuda and find_spec("triton") else "torch"
    return _Rotary.apply(x, cosine, sine, impl)


class _Rotary(torch.autograd.Function):
    """Rotates the two halves of every head; the backward pass rotates back."""

    @staticmethod
    def forward(ctx, x, cosine, sine, impl):
        ctx.save_for_backward(cosine, sine)
        ctx.impl = impl
        return _rotate(x, cosine, sine, impl)

    @staticmethod
    def backward(ctx, grad):
        cosine, sine = ctx.saved_tensors
        return _rotate(grad, cosine, -sine, ctx.impl), None, None, None


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, impl: str) -> Tensor:
    if impl == "triton":
        from perdure.kernels.triton_elementwise import rotate

        return rotate(x if x.stride(-1) == 1 else x.contiguous(), cosine, sine)
    first, second = x.chunk(2, -1)
    rotated = torch.empty_like(x)
    left, right = rotated.chunk(2, -1)
    torch.mul(first, cosine, out=left).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=right).addcmul_(first, sine)
    return rotated
