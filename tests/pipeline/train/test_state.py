"""The state of a run as checkpoints keep it: the same JSON as ever, and what old ones lack."""

import json

from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.plan.plan import open_plan
from perdure.pipeline.train.start import fresh_state
from perdure.pipeline.train.state import TrainState, state_of_json

KEYS = (
    "device_seconds consumed step scored selected threshold seconds losses skipped parallel schedule total_steps phases "
    "ratios perplexity perplexity_on scheduled metrics optimizer_steps"
).split()
"""Of `state.json`, in the order in which releases since 0.1 write them."""


def test_a_checkpoint_has_the_keys_of_earlier_releases_in_their_order(tmp_path):
    state = TrainState(device_seconds=1.0, consumed={"a": 3}, scheduled=True, metrics="0", optimizer_steps=4)
    assert list(state.as_json()) == KEYS
    write_json(tmp_path / "state.json", state.as_json())
    assert state_of_json(read_json(tmp_path / "state.json")) == state


def test_what_only_a_checkpoint_tells_is_left_out_before(tmp_path):
    found = fresh_state(tiny_recipe(tmp_path), "v1").as_json()
    assert list(found) == [key for key in KEYS[:-3] if key != "consumed"]
    assert found["threshold"] is None and found["total_steps"] == 20


def test_an_old_checkpoint_counts_padding_and_seconds_of_devices(tmp_path):
    """It has neither tokens by source nor device seconds; what it does not know by name is left alone."""
    recipe = tiny_recipe(tmp_path)
    plan = open_plan(prepare_version(recipe) / "plan")
    state = state_of_json({"step": 5, "seconds": 3.0, "losses": [], "something": 1})
    assert state.device_seconds is None and state.consumed is None
    whole = state.completed(plan, recipe.training, 4)
    assert whole.device_seconds == 12.0 and whole.tokens == 5 * 8 * 32
    assert whole.completed(plan, recipe.training, 2) == whole


def test_a_rollback_keeps_what_was_consumed_and_every_phase():
    now = TrainState(
        step=9, seconds=9.0, device_seconds=9.0, consumed={"a": 90}, phases=[{"first_sample": 3}]
    )
    saved = TrainState(
        step=5, seconds=5.0, device_seconds=5.0, consumed={"a": 50}, losses=[1.0], threshold=0.5
    )
    after = now.rolled_back(saved)
    assert (after.step, after.losses, after.threshold) == (5, [1.0], 0.5)
    assert (after.seconds, after.consumed, after.phases) == (9.0, {"a": 90}, [{"first_sample": 3}])
    assert json.loads(json.dumps(after.as_json()))["step"] == 5
