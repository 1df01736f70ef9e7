"""Shares that follow perplexity, with made-up perplexities: how far they may rise."""

import json
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from perdure.pipeline.consumption import taken
from perdure.pipeline.plan import Plan, make_plan, with_phases
from perdure.pipeline.train import reweight as module
from tests.support import tiny_recipe

STEPS, BATCH, INTERVAL = 200, 8, 5


@dataclass(frozen=True)
class Data:
    """As much of a dataset as reweighting looks at."""

    plan: Plan


@pytest.fixture
def recipe():
    mixture = {
        "sources": {"a": {"weight": 0.02}, "b": {"weight": 0.98}},
        "reweight": {"interval": INTERVAL * BATCH * 32, "alpha": 0.5},
        "max_repetition": 2,
    }
    return tiny_recipe("unused", versions__v1__mixture=mixture, versions__v1__tokens=STEPS * BATCH * 32)


def planned(before: int = 0) -> Plan:
    """`a` has 50 samples, `before` of which ancestors took; `b` has enough."""
    entry = {"order": "given", "pool": None}
    sources = {
        "a": entry | {"samples_per_epoch": 50, "start": before},
        "b": entry | {"samples_per_epoch": 5000, "start": 0},
    }
    return make_plan(
        {
            "seed": 1,
            "seq_length": 32,
            "first_sample": 0,
            "num_samples": STEPS * BATCH,
            "sources": sources,
            "phases": [{"first_sample": 0, "counts": {"a": 1, "b": 49}, "reason": "start"}],
        }
    )


def trained(recipe, plan: Plan, state: dict, say=lambda _line: None, stop: int = STEPS) -> tuple[Plan, dict]:
    """Plan and state after `stop` steps in which `a` got worse and worse."""
    data = Data(with_phases(plan, state["phases"]))
    for step in range(state["step"], stop):
        with patch.object(module, "_perplexity", return_value={"a": 10.0 + step, "b": 10.0}):
            data, state = module.reweight(
                data, state | {"step": step}, recipe, recipe.versions["v1"], None, {}, None, say
            )
    return data.plan, state | {"step": stop}


FRESH = {"step": 0, "perplexity": None, "ratios": None, "phases": []}


@pytest.mark.parametrize("before", [0, 30])
def test_a_source_that_gets_worse_and_worse_is_held_once_it_was_repeated_often_enough(recipe, before):
    said: list[str] = []
    plan, state = trained(recipe, planned(before), FRESH, said.append)
    held = [phase for phase in state["phases"] if "held" in phase]
    first = held[0]["first_sample"]
    assert held == [phase for phase in state["phases"] if phase["first_sample"] >= first]
    assert all(phase["held"] == ["a"] and phase["ratios"]["a"] == 0.01 for phase in held)
    # As soon as it was repeated twice, and not before.
    assert taken((plan, first - INTERVAL * BATCH), "a") < 2 * 50 <= taken((plan, first), "a")
    rest = (plan.end - first) // 100 + 1
    assert taken((plan, plan.end), "a") <= taken((plan, first), "a") + rest
    where = f"step {first // BATCH + 1}: a was repeated 2 times"
    assert said == [f"{where} (mixture.max_repetition); its share is held at 1.00% of the new data"]


def test_it_is_held_alike_after_a_resume(recipe):
    said: list[str] = []
    whole = trained(recipe, planned(), FRESH)[1]
    for stop in (20, 120):
        state = json.loads(json.dumps(trained(recipe, planned(), FRESH, stop=stop)[1]))
        assert trained(recipe, planned(), state, said.append)[1] == whole
    assert len(said) == 1  # what the checkpoint tells was told


def test_somebody_gives_the_samples_once_all_were_repeated(recipe):
    mixture, plan = recipe.versions["v1"].mixture, planned(100)
    assert module.exhausted(plan, 0, mixture) == ["a"]
    everything = mixture.model_copy(update={"max_repetition": 0.0})
    assert module.exhausted(plan, 0, everything) == []
