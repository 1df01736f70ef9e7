"""Triton kernels that read and write every element once: rotary embedding and SwiGLU. Arithmetic is float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
"""Rows (heads of a token) of a program of the rotary embedding."""
COLUMNS = 1024
"""Columns of a program of SwiGLU."""


@triton.jit
def _rotate_kernel(
    X, COSINE, SINE, OUT, rows, batch, heads, half, stride_s, stride_b, stride_h,
    ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sequence, in_batch, head = row // (batch * heads), row // heads % batch, row % heads
    column = tl.arange(0, HALF)
    ok = (row < rows)[:, None] & (column < half)[None, :]
    angle = sequence[:, None] * half + column[None, :]
    cosine = tl.load(COSINE + angle, mask=ok, other=0.0).to(tl.float32)
    sine = tl.load(SINE + angle, mask=ok, other=0.0).to(tl.float32)
    start = sequence.to(tl.int64) * stride_s + in_batch.to(tl.int64) * stride_b + head * stride_h
    place = X + start[:, None] + column[None, :]
    first = tl.load(place, mask=ok, other=0.0).to(tl.float32)
    second = tl.load(place + half, mask=ok, other=0.0).to(tl.float32)
    place = OUT + row[:, None].to(tl.int64) * (2 * half) + column[None, :]
    tl.store(place, (first * cosine - second * sine).to(OUT.dtype.element_ty), mask=ok)
    tl.store(place + half, (second * cosine + first * sine).to(OUT.dtype.element_ty), mask=ok)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """See `rope.rotary`; the last stride of `x` is 1."""
    sequence, batch, heads, head_dim = x.shape
    rows, out = sequence * batch * heads, torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rotate_kernel[(triton.cdiv(rows, ROWS),)](
        x, cosine.contiguous(), sine.contiguous(), out, rows, batch, heads, head_dim // 2, *x.stride()[:3],
        ROWS=ROWS, HALF=triton.next_power_of_2(head_dim // 2),
    )  # fmt: skip
    return out


@triton.jit
def _swiglu_kernel(X, OUT, width, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    ok = column < width
    place = X + row * 2 * width + column
    gate = tl.load(place, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=ok, other=0.0).to(tl.float32)
    silu = gate / (1.0 + tl.exp(-gate))
    tl.store(OUT + row * width + column, (silu * up).to(OUT.dtype.element_ty), mask=ok)


@triton.jit
def _swiglu_backward_kernel(X, GRAD, OUT, width, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    ok = column < width
    place = row * 2 * width + column
    gate = tl.load(X + place, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(X + place + width, mask=ok, other=0.0).to(tl.float32)
    grad = tl.load(GRAD + row * width + column, mask=ok, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    slope = sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(OUT + place, (grad * up * slope).to(OUT.dtype.element_ty), mask=ok)
    tl.store(OUT + place + width, (grad * gate * sigmoid).to(OUT.dtype.element_ty), mask=ok)


def swiglu_forward(x: Tensor) -> Tensor:
    """See `swiglu.swiglu`."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    rows = out.numel() // width
    _swiglu_kernel[rows, triton.cdiv(width, COLUMNS)](x, out, width, COLUMNS=COLUMNS)
    return out


def swiglu_backward(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `x`, from that of `swiglu_forward(x)`."""
    x, grad = x.contiguous(), grad.contiguous()
    width, out = grad.shape[-1], torch.empty_like(x)
    rows = grad.numel() // width
    _swiglu_backward_kernel[rows, triton.cdiv(width, COLUMNS)](x, grad, out, width, COLUMNS=COLUMNS)
    return out
