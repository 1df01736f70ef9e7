"""Rotary embedding and SwiGLU: fused and reference, against autograd over their definitions in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.kernels import rotary, swiglu

each_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
precisions = st.sampled_from([(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])


def check(found, expected, tolerance):
    for ours, theirs in zip(found, expected):
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


@each_impl
@settings(max_examples=10)
@given(data=st.data())
def test_rotary(impl, data):
    dtype, tolerance = data.draw(precisions)
    sequence, batch, heads = (data.draw(st.integers(1, 5)) for _ in range(3))
    head_dim = 2 * data.draw(st.integers(1, 20))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    # As Megatron splits queries from the rest: a strided view.
    x = torch.randn(sequence, batch, heads, 2 * head_dim).to(dtype)[..., :head_dim].requires_grad_()
    upstream = torch.randn(sequence, batch, heads, head_dim).to(dtype)
    half = head_dim // 2
    angles = torch.outer(torch.arange(sequence).double(), 10000.0 ** (-torch.arange(half).double() / half))
    angles = angles[:, None, None]
    y = rotary(x, angles.cos().to(dtype), angles.sin().to(dtype), impl=impl)
    (gradient,) = torch.autograd.grad(y, x, upstream)

    # The definition: pairs as complex numbers, times e^(i angle).
    turn = torch.polar(torch.ones_like(angles), angles)
    copy = x.detach().double().requires_grad_()
    turned = torch.complex(*copy.chunk(2, -1)) * turn
    expected = torch.cat([turned.real, turned.imag], -1)
    (expected_gradient,) = torch.autograd.grad(expected, copy, upstream.double())
    check((y, gradient), (expected, expected_gradient), tolerance)


@each_impl
@settings(max_examples=10)
@given(data=st.data())
def test_swiglu(impl, data):
    dtype, tolerance = data.draw(precisions)
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3)), 2 * data.draw(st.integers(1, 1100)))
    torch.manual_seed(data.draw(st.integers(0, 9)))
    x = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    upstream = torch.randn(*shape[:2], shape[2] // 2).to(dtype)
    y = swiglu(x, impl=impl)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    copy = x.detach().double().requires_grad_()
    gate, up = copy.chunk(2, -1)
    expected = gate * torch.sigmoid(gate) * up
    (expected_gradient,) = torch.autograd.grad(expected, copy, upstream.double())
    check((y, gradient), (expected, expected_gradient), tolerance)


@pytest.mark.filterwarnings("ignore:overflow")
@each_impl
def test_swiglu_of_large_numbers_is_finite(impl):
    x = torch.tensor([[-200.0, 200.0, 3.0, 3.0]], requires_grad=True)
    y = swiglu(x, impl=impl)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [[0.0, 600.0]]
    assert gradient.tolist() == [[0.0, 3.0, 0.0, 200.0]]
