"""Anchors by hand, and beside torch's own AdamW with the penalty in the loss."""

import pytest
import torch

from perdure.pipeline.model.anchors import FISHER, PARENT, FisherPull, L2Pull
from perdure.pipeline.model.optimizer import FusedAdamW

RATE, BETAS, DECAY = 0.1, (0.9, 0.95), 0.01


def anchored(hook, start, parent, fisher=None, decay=0.0):
    """A weight beside its parent's value under `FusedAdamW` with one hook."""
    weight = torch.nn.Parameter(torch.as_tensor(start))
    optimizer = FusedAdamW([weight], lr=RATE, betas=BETAS, weight_decay=decay)
    state = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")} | {
        PARENT: torch.as_tensor(parent)
    }
    optimizer.state[weight] = state | ({} if fisher is None else {FISHER: torch.as_tensor(fisher)})
    optimizer.hooks = (hook,)
    return weight, optimizer


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    """Every weight counts: there are no other ranks that could have it."""
    monkeypatch.setattr(
        "perdure.pipeline.model.anchors.param_is_not_tensor_parallel_duplicate", lambda _: True
    )


def test_l2_moves_a_weight_by_rate_times_strength_of_the_way_to_the_parent():
    """p = 1, p0 = 0.5, rate 0.1, strength 0.2, no gradient: 0.99; the penalty of p is 0.2 / 2 * 0.25."""
    hook = L2Pull(0.2)
    weight, optimizer = anchored(hook, [1.0], [0.5])
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(0.99, abs=1e-7)
    assert [float(part) for part in hook.sums] == pytest.approx([0.025])


def test_rate_times_strength_of_1_lands_on_the_parent():
    weight, optimizer = anchored(L2Pull(10.0), [1.0, -3.0], [0.3, 0.7])
    weight.grad = torch.ones(2)
    optimizer.step()
    assert weight.tolist() == torch.tensor([0.3, 0.7]).tolist()


def test_ewc_adds_strength_times_fisher_times_distance_to_the_gradient():
    """F = 4, strength 2, distance 0.5: penalty 1, gradient 4."""
    hook = FisherPull(2.0)
    weight, optimizer = anchored(hook, [1.0], [0.5], [4.0])
    weight.grad = torch.zeros(1)
    hook.before([weight], [optimizer.state[weight]], 1, RATE)
    assert weight.grad.item() == 4.0
    assert [float(part) for part in hook.sums] == [1.0]


def test_l2_is_adamw_of_torch_and_then_the_pull():
    torch.manual_seed(0)
    start, parent, gradients = torch.randn(50), torch.randn(50), torch.randn(6, 50)
    weight, optimizer = anchored(L2Pull(0.3), start.clone(), parent, decay=DECAY)
    expected = torch.nn.Parameter(start.double())
    reference = torch.optim.AdamW([expected], lr=RATE, betas=BETAS, weight_decay=DECAY)
    for gradient in gradients:
        weight.grad, expected.grad = gradient.clone(), gradient.double()
        optimizer.step()
        reference.step()
        with torch.no_grad():
            expected -= RATE * 0.3 * (expected - parent)
    torch.testing.assert_close(weight.double(), expected, atol=1e-6, rtol=0)


def test_ewc_is_adamw_of_torch_with_the_penalty_in_the_loss():
    torch.manual_seed(0)
    start, parent, fisher, data = torch.randn(50), torch.randn(50), torch.rand(50), torch.randn(6, 50)
    weight, optimizer = anchored(FisherPull(3.0), start.clone(), parent, fisher, decay=DECAY)
    expected = torch.nn.Parameter(start.double())
    reference = torch.optim.AdamW([expected], lr=RATE, betas=BETAS, weight_decay=DECAY)
    for row in data:
        weight.grad = torch.autograd.grad((row * weight).sin().sum(), weight)[0]
        reference.zero_grad()
        penalty = 3.0 / 2 * (fisher * (expected - parent) ** 2).sum()
        ((row * expected).sin().sum() + penalty).backward()
        optimizer.step()
        told = optimizer.hooks[0].sums.pop()
        assert float(told) == pytest.approx(float(penalty), rel=1e-5)
        reference.step()
    torch.testing.assert_close(weight.double(), expected, atol=1e-5, rtol=0)


def test_twice_the_fisher_information_and_half_the_strength_are_the_same_bits():
    torch.manual_seed(0)
    start, parent, fisher, gradients = torch.randn(50), torch.randn(50), torch.rand(50), torch.randn(6, 50)
    runs = [
        anchored(FisherPull(strength), start.clone(), parent, fisher * times)
        for strength, times in ((0.7, 1), (0.35, 2))
    ]
    for gradient in gradients:
        for weight, optimizer in runs:
            weight.grad = gradient.clone()
            optimizer.step()
    left, right = (weight for weight, _ in runs)
    assert torch.equal(left, right)
