"""The optimizer: its update by the formula, what it is told, and its states as they are stored."""

from math import prod
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.model.optimizer import FusedAdamW, optimizer_config, rectangles, set_learning_rate
from perdure.pipeline.model.step_hooks import install_hooks
from perdure.pipeline.recipe import Training


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_rectangles_hold_a_run_of_elements_in_order(data, shape):
    begin = data.draw(st.integers(0, prod(shape)))
    end = data.draw(st.integers(begin, prod(shape)))
    whole, found = torch.arange(prod(shape)).view(shape), []
    pieces = list(rectangles(begin, end, tuple(shape)))
    for offset, size in pieces:
        found += whole[tuple(slice(o, o + s) for o, s in zip(offset, size, strict=True))].flatten().tolist()
    assert found == list(range(begin, end))
    assert len(pieces) <= 2 * len(shape) - 1


def test_nothing_is_in_no_rectangle():
    assert list(rectangles(7, 3, (4, 4))) == []


def test_an_update_is_that_of_loshchilov_and_hutter():
    """Algorithm 2 in float64, over steps of changing rate; decay is lr times decay, whatever the gradient."""
    generator = torch.Generator().manual_seed(0)
    weight, moment, square = (
        torch.randn(50, generator=generator).double(),
        torch.zeros(50).double(),
        torch.zeros(50).double(),
    )
    parameter = torch.nn.Parameter(weight.float())
    optimizer = FusedAdamW([parameter], betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3)
    for step, lr in enumerate((0.0, 0.1, 0.02, 0.05), start=1):
        gradient = torch.randn(50, generator=generator)
        parameter.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        moment = 0.8 * moment + 0.2 * gradient.double()
        square = 0.95 * square + 0.05 * gradient.double() ** 2
        adaptive = moment / (1 - 0.8**step) / ((square / (1 - 0.95**step)).sqrt() + 1e-3)
        weight = weight - lr * (adaptive + 0.3 * weight)
        torch.testing.assert_close(parameter.detach().double(), weight, rtol=1e-5, atol=1e-6)
    state = optimizer.state[parameter]
    torch.testing.assert_close(state["exp_avg"].double(), moment, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state["exp_avg_sq"].double(), square, rtol=1e-5, atol=1e-6)


def test_without_a_gradient_a_weight_shrinks_by_the_rate_times_the_decay():
    """100 steps of lr 0.01 and decay 0.1 leave 0.999^100 of it; norms and biases stay what they are."""
    weight, norm = torch.nn.Parameter(torch.full((3,), 8.0)), torch.nn.Parameter(torch.full((3,), 8.0))
    groups = [{"params": [weight], "wd_mult": 1.0}, {"params": [norm], "wd_mult": 0.0}]
    optimizer = FusedAdamW(groups)
    set_learning_rate(optimizer, 0.01, 0.1)
    for _ in range(100):
        weight.grad, norm.grad = torch.zeros(3), torch.zeros(3)
        optimizer.step()
    assert weight.tolist() == pytest.approx([8 * 0.999**100] * 3, rel=1e-5) and norm.tolist() == [8.0] * 3


def test_hooks_act_on_the_clipped_gradient_before_and_on_the_weight_after_an_update():
    """With both betas 0, AdamW moves a weight by the rate against its gradient's sign: 8 - 0.5; then the hook doubles it."""

    seen = []

    class Hook:
        companions = ()

        def before(self, weights, states, step, lr):
            seen.append((weights[0].item(), weights[0].grad.item(), sorted(states[0]), step, lr))
            weights[0].grad.neg_()

        def after(self, weights, states, step, lr):
            weights[0].mul_(2)

    weight = torch.nn.Parameter(torch.tensor([8.0]))
    weight.grad = torch.tensor([-3.0])
    optimizer = FusedAdamW([weight], lr=0.5, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0)
    optimizer.hooks, optimizer.version_step = (Hook(),), 7
    optimizer.step()
    assert weight.item() == 15.0
    assert seen == [(8.0, -3.0, ["exp_avg", "exp_avg_sq"], 7, 0.5)]


def test_no_hooks_leave_the_optimizer_as_new():
    """Megatron makes moments to load into where there is no state yet, not even an empty one."""
    optimizer = FusedAdamW([torch.nn.Parameter(torch.ones(3))])
    install_hooks(SimpleNamespace(chained_optimizers=[SimpleNamespace(optimizer=optimizer)]), ())
    assert not optimizer.state and optimizer.hooks == ()


def test_every_group_is_told_the_rate_and_its_part_of_the_decay():
    optimizer = SimpleNamespace(param_groups=[{"wd_mult": multiple} for multiple in (1.0, 0.0, 0.5)])
    set_learning_rate(optimizer, 0.02, 0.1)
    told = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert told == [(0.02, 0.1), (0.02, 0.0), (0.02, 0.05)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_megatron_is_told_what_the_recipe_says(precision):
    """Every constant is another than Megatron's own, which a forgotten one would be."""
    own = {"adam_beta1": 0.7, "adam_beta2": 0.87, "adam_eps": 1e-5, "weight_decay": 0.03, "clip_grad": 0.25}
    required = {"seq_length": 32, "global_batch_size": 8, "precision": precision}
    config = optimizer_config(Training.model_validate(required | own), distributed=True)
    assert {name: getattr(config, name) for name in own} == own
    assert config.use_distributed_optimizer and config.bf16 is (precision == "bf16")
