"""Layers: what they do beyond Megatron's."""

from types import SimpleNamespace

import pytest
import torch

from perdure.pipeline.model import layers


@pytest.mark.parametrize("parallel", [False, True])
def test_the_norm_says_whether_its_gradient_is_of_a_part_of_the_sequence(parallel):
    norm = layers.RMSNorm(config=SimpleNamespace(sequence_parallel=parallel), hidden_size=8, eps=1e-5)
    assert norm.weight.sequence_parallel is parallel
    x = torch.randn(3, 8)
    torch.testing.assert_close(norm(x), x / (x.pow(2).mean(1, keepdim=True) + 1e-5).sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_gradients_are_added_in_float32(dtype):
    torch.manual_seed(0)
    inputs, grad = torch.randn(64, 8).to(dtype), torch.randn(64, 5).to(dtype)
    total = torch.ones(5, 8)
    layers.add_weight_gradient(inputs, grad, total)
    layers.add_weight_gradient(inputs, grad, total)
    expected = 1 + 2 * grad.double().t() @ inputs.double()
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
