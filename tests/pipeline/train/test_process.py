"""Signals that ask for a stop: real ones, to whoever started two ranks, in a measurement, a step and the last evaluation."""

import signal

import pytest
from support import STOPPED, metrics, start_ranks, stopped_at
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json
from perdure.pipeline.train.saved import finished_checkpoints

pytestmark = pytest.mark.slow
RANKS, STEPS = 2, 9


def version(out):
    """Measured on the way before steps 1, 5 and 9, saved after step 5 and the last one."""
    return prepare_version(
        tiny_recipe(
            out,
            versions__v1__tokens=32 * 8 * STEPS,
            parallel={"data_parallel": RANKS},
            evaluation={"max_tokens": 500, "interval": 4},
        )
    )


def stopped(directory, point, number):
    """What ranks say of a signal that comes at a point, and the newest step that is saved then."""
    done = stopped_at(directory, RANKS, point, number)
    assert done.returncode == STOPPED, done.stderr
    assert "Traceback" not in done.stderr
    assert not list((directory / "checkpoints").glob(".step_*"))
    newest = int(finished_checkpoints(directory / "checkpoints")[-1].name[5:])
    return [line for line in done.stdout.splitlines() if line.startswith("stopped by")], newest


def test_a_signal_saves_once_and_the_rest_is_as_if_it_had_not_come(tmp_path):
    whole, cut = version(tmp_path / "whole"), version(tmp_path / "cut")
    outcome = start_ranks(whole, RANKS)
    assert outcome.returncode == 0, outcome.stderr

    # As the second measurement begins, whose losses are those of no step yet.
    said, step = stopped(cut, "trainer:evaluate:2", signal.SIGTERM)
    assert said == ["stopped by SIGTERM at step 4: saved; run the same command again to go on"]
    assert step == len(metrics(cut)) == 4

    # In the second step from there, while the first one is being saved.
    said, step = stopped(cut, "trainer:train_step:2", signal.SIGUSR1)
    assert said == ["stopped by SIGUSR1 at step 6: saved; run the same command again to go on"]
    assert step == len(metrics(cut)) == 6

    # After the last step.
    said, step = stopped(cut, "evaluate:evaluate:1", signal.SIGTERM)
    assert said == ["stopped by SIGTERM: nothing is lost; run the same command again to go on"]
    assert step == STEPS and not (cut / "_SUCCESS").exists()

    outcome = start_ranks(cut, RANKS)
    assert outcome.returncode == 0, outcome.stderr
    assert f"resume at step {STEPS}" in outcome.stdout
    assert (
        read_json(cut / "version.json")["weights_hash"] == read_json(whole / "version.json")["weights_hash"]
    )
    assert read_json(cut / "eval.json") == read_json(whole / "eval.json")
    for left, right in zip(metrics(whole), metrics(cut), strict=True):
        assert left | {"tokens_per_second": 0} == right | {"tokens_per_second": 0}
