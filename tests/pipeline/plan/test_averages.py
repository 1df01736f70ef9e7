"""Weights of averaged checkpoints, and the decays that they equal: exact values."""

import math

import numpy as np
import pytest

from perdure.pipeline.plan.averages import (
    averaged_steps,
    averaged_weights,
    checkpoint_weights,
    decay_begins,
    decay_factor,
    kept_to_average,
    update_weights,
)
from perdure.pipeline.recipe.averages import Average
from tests.pipeline.plan.paths import branch, main_path, recipe_of

FIVE = [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("shape", "of_updates", "of_checkpoints"),
    [
        ("uniform", [0.8, 0.6, 0.4, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("linear", [0.75, 0.5, 0.25, 0], [0.25, 0.25, 0.25, 0.25, 0]),
        ("inverse_sqrt", [0.5, 0.292893, 0.133975, 0], [0.5, 0.207107, 0.158919, 0.133975, 0]),
    ],
)
def test_each_shape_is_the_decay_that_it_is_named_by(shape, of_updates, of_checkpoints):
    assert update_weights(shape, FIVE) == pytest.approx(of_updates, abs=1e-6)
    assert checkpoint_weights(shape, FIVE) == pytest.approx(of_checkpoints, abs=1e-6)


@pytest.mark.parametrize("shape", ["uniform", "linear", "inverse_sqrt"])
@pytest.mark.parametrize("steps", [[7], [3, 9], [1, 2, 10, 11], list(range(100, 1100, 10))])
def test_an_average_is_the_first_checkpoint_plus_decayed_updates(shape, steps):
    rng = np.random.default_rng(len(steps))
    updates = rng.normal(size=steps[-1] + 1)
    path = np.cumsum(updates)
    average = sum(w * path[step] for w, step in zip(checkpoint_weights(shape, steps), steps, strict=True))
    decayed = [decay_factor(shape, steps, None, step) * updates[step] for step in range(1, steps[-1] + 1)]
    assert average == pytest.approx(updates[0] + sum(decayed), rel=1e-12)
    assert math.fsum(checkpoint_weights(shape, steps)) == pytest.approx(1, abs=1e-12)


def test_unevenly_distant_checkpoints_stand_where_they_are_on_the_way():
    assert update_weights("linear", [10, 20, 50]) == pytest.approx([0.75, 0])
    assert update_weights("inverse_sqrt", [10, 20, 50]) == pytest.approx([0.5, 0])
    assert update_weights("uniform", [10, 20, 50]) == pytest.approx([2 / 3, 1 / 3])


def test_a_running_average_is_a_decay_too():
    rng = np.random.default_rng(0)
    updates, decay = rng.normal(size=41), 0.9
    path, ema = np.cumsum(updates), updates[0]
    for weight in path[1:]:
        ema = decay * ema + (1 - decay) * weight
    decayed = [decay_factor("ema", [40], decay, step) * updates[step] for step in range(1, 41)]
    assert ema == pytest.approx(updates[0] + sum(decayed), rel=1e-12)
    start = Average(type="average", of="main", shape="ema")
    assert decay_begins(start, [100], decay) == 50 and decay_begins(start, [40], decay) == 0
    assert decay_factor("ema", [100], decay, 50) > 0.99


def starting(**fields) -> Average:
    return Average(type="average", of="main", **fields)


def test_the_last_of_what_is_kept_and_the_last_step(tmp_path):
    versions = {"main": main_path(10, keep={"every": 3}), "v1": branch(5, 2)}
    recipe = recipe_of(tmp_path, versions)
    assert kept_to_average(recipe, "main") == [3, 5, 6, 9, 10]
    # A branch keeps a checkpoint, too, which is none of the run's own.
    assert averaged_steps(recipe, starting(last=3)) == [6, 9, 10]
    assert averaged_steps(recipe, starting(last=1)) == [10]
    assert averaged_steps(recipe, starting(steps=[3, 5])) == [3, 5]
    assert averaged_weights(recipe, starting(last=4)) == dict.fromkeys([3, 6, 9, 10], 0.25)
    assert averaged_weights(recipe, starting(last=4, shape="linear")) == pytest.approx(
        {3: 3 / 7, 6: 3 / 7, 9: 1 / 7}
    )
    assert averaged_weights(recipe, starting(shape="ema")) == {10: 1.0}
    for shape in ("uniform", "linear", "inverse_sqrt"):
        assert averaged_weights(recipe, starting(steps=[6], shape=shape)) == {6: 1.0}
    assert decay_begins(starting(last=3), [6, 9, 10], None) == 6
