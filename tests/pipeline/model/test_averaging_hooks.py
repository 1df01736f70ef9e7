"""Running averages, Elastic Reset and Reptile on one weight that AdamW moves by 1 a step: exact values."""

from types import SimpleNamespace

import pytest
import torch

from perdure.pipeline.model.averaging_hooks import ElasticResetHook, ReptileHook, RunningAverage
from perdure.pipeline.model.optimizer import FusedAdamW
from perdure.pipeline.model.step_hooks import install_hooks, set_step


def path(hook, steps: int, start: float = 0.0) -> list[dict[str, float]]:
    """The weight and its companions after every step; with betas 0, each moves it by the rate, 1."""
    weight = torch.nn.Parameter(torch.tensor([start]))
    inner = FusedAdamW([weight], lr=1.0, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0)
    optimizer = SimpleNamespace(chained_optimizers=[SimpleNamespace(optimizer=inner)])
    install_hooks(optimizer, [hook])
    found = []
    for step in range(1, steps + 1):
        weight.grad = torch.tensor([-2.0])
        set_step(optimizer, step)
        inner.step()
        state = {name: inner.state[weight][name].item() for name in hook.companions}
        found.append({"weight": weight.item()} | state)
    return found


def test_an_elastic_reset_takes_the_average_and_begins_it_anew_at_the_start():
    steps = path(ElasticResetHook(interval=3, decay=0.5), 6)
    assert [step["weight"] for step in steps] == [1, 2, 2.125, 3.125, 4.125, 3.984375]
    assert [step["elastic_ema"] for step in steps] == [0.5, 1.25, 0, 1.5625, 2.84375, 0]
    assert {step["elastic_initial"] for step in steps} == {0}


def test_an_elastic_reset_begins_the_average_at_the_first_weights_not_at_zero():
    steps = path(ElasticResetHook(interval=3, decay=0.5), 3, start=16.0)
    assert steps[-1] == {"weight": 18.125, "elastic_ema": 16.0, "elastic_initial": 16.0}


def test_reptile_keeps_a_share_of_the_way_since_it_last_did():
    steps = path(ReptileHook(interval=3, rate=0.1), 7)
    assert [step["weight"] for step in steps] == pytest.approx([1, 2, 0.3, 1.3, 2.3, 0.6, 1.6], abs=1e-6)
    assert [step["reptile_anchor"] for step in steps] == pytest.approx(
        [0, 0, 0.3, 0.3, 0.3, 0.6, 0.6], abs=1e-6
    )


def test_a_running_average_follows_the_weights_and_leaves_them_alone():
    steps = path(RunningAverage(decay=0.75), 3, start=4.0)
    assert [step["weight"] for step in steps] == [5, 6, 7]
    assert [step["ema"] for step in steps] == [4.25, 4.6875, 5.265625]


@pytest.mark.parametrize("hook", [ElasticResetHook(8, 0.5), ReptileHook(8, 0.1)])
def test_an_interval_beyond_the_steps_changes_no_weight(hook):
    assert [step["weight"] for step in path(hook, 7)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("decay", [0.5, 0.995, 0.9999])
def test_the_average_of_weights_that_rest_is_the_weights(decay):
    averages, weights = [torch.tensor([0.1, -3e-8])], [torch.tensor([0.1, -3e-8])]
    hook = RunningAverage(decay)
    for step in range(5):
        hook.after(weights, [{"ema": averages[0]}], step, 0.1)
    assert torch.equal(averages[0], weights[0])
