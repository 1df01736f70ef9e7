"""Triton's kernels of `triton_elementwise` by torch's operations, from the same arguments."""

import torch
from torch import Tensor


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, out: Tensor, *_sizes: int) -> None:
    """The rotary embedding of `x`, [sequence, batch, heads, head_dim]."""
    cosine, sine = (angle.float().view(len(x), 1, 1, -1) for angle in (cosine, sine))
    first, second = x.float().chunk(2, -1)
    out.copy_(torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1))


def swiglu(x: Tensor, out: Tensor, *_sizes: int) -> None:
    """silu(gate) * up, where `x` is [..., gate and up]."""
    gate, up = x.float().chunk(2, -1)
    out.copy_(gate * gate.sigmoid() * up)


def swiglu_backward(x: Tensor, grad: Tensor, out: Tensor, *_sizes: int) -> None:
    """Gradient of `x`."""
    gate, up = x.float().chunk(2, -1)
    sigmoid = gate.sigmoid()
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    out.copy_(torch.cat([grad * up * slope, grad * gate * sigmoid], -1))


BY_TORCH = {"_rotate_kernel": rotate, "_swiglu_kernel": swiglu, "_swiglu_backward_kernel": swiglu_backward}
"""By the kernel's name."""
