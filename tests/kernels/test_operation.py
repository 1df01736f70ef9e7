"""Weights that are made of the losses, between the forward and the backward pass."""

import pytest
import torch
import torch.nn.functional as F

from perdure.kernels import selective_linear_cross_entropy


@pytest.mark.parametrize("impl", ["torch", "chunked", "triton"])
def test_weights_made_of_the_losses_give_the_gradient_of_a_function_of_their_sums(impl):
    """-log sigmoid of the difference of two sequences' likelihoods: weights of both signs, known after the forward pass."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, 16, generator=generator).requires_grad_()
    weight = torch.randn(70, 16, generator=generator).requires_grad_()
    labels = torch.randint(0, 70, (2, 7), generator=generator)
    valid = torch.rand(2, 7, generator=generator) > 0.2
    sign = torch.tensor([[1.0], [-1.0]]) * valid

    def weigh(nll):
        assert not torch.is_grad_enabled()
        return 0.1 * torch.sigmoid(0.1 * (sign * nll).sum()) * sign

    found = selective_linear_cross_entropy(
        hidden, weight, labels, valid=valid, weigh=weigh, vocab_size=70, impl=impl
    )
    with torch.no_grad():
        weights = weigh(found.nll)
    assert found.loss.equal(weights * found.nll) and found.selected.equal(valid)
    gradients = torch.autograd.grad((found.loss * found.selected).sum(), (hidden, weight))
    logits = hidden.double() @ weight.double().t()
    nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    objective = -F.logsigmoid(-0.1 * (sign * nll).sum())
    for ours, theirs in zip(gradients, torch.autograd.grad(objective, (hidden, weight)), strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()
