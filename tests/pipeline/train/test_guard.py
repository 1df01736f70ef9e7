"""The guard: thresholds exactly; skipped and rolled-back steps in real ranks."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
from support import metrics, on_rank
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.recipe import Guard
from perdure.pipeline.train.counts import Counts
from perdure.pipeline.train.guard import StepVerdict, assess, remember
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.state import TrainState
from perdure.pipeline.train.trainer import Trainer


@pytest.mark.parametrize(
    ("losses", "loss", "grad_norm", "expected"),
    [
        ([1.0, 2.0, 9.0], 4.0, 1.0, StepVerdict.NONE),
        ([1.0, 2.0, 9.0], 4.001, 1.0, StepVerdict.SPIKE),
        ([2.0, 9.0], 100.0, 1.0, StepVerdict.NONE),
        ([1.0, 2.0, 9.0], math.nan, 1.0, StepVerdict.NOT_FINITE),
        ([1.0, 2.0, 9.0], 1.0, math.inf, StepVerdict.NOT_FINITE),
    ],
)
def test_a_spike_is_above_the_factor_times_the_median_of_a_full_window(losses, loss, grad_norm, expected):
    guard = Guard(on_spike="skip", spike_factor=2, spike_window=3)
    assert assess(guard, losses, loss, grad_norm) is expected
    ignoring = Guard(spike_factor=2, spike_window=3)
    assert assess(ignoring, [], loss, grad_norm) is (
        StepVerdict.NONE if expected is StepVerdict.SPIKE else expected
    )


def test_the_window_moves():
    guard = Guard(on_spike="skip", spike_window=2)
    assert remember(guard, [1.0, 2.0], 3.0) == [2.0, 3.0]
    assert remember(Guard(), [], 3.0) == remember(Guard(), [], None) == []


def test_a_batch_without_labels_makes_no_spike_of_the_next_one():
    """Its loss counts as 0, of which every other one is more than a multiple."""
    guard = Guard(on_spike="skip", spike_window=1)
    session = SimpleNamespace(recipe=SimpleNamespace(training=SimpleNamespace(guard=guard)))
    dataset = SimpleNamespace(plan=SimpleNamespace(keys=("a", "b")))
    state = TrainState(losses=[3.0])
    trainer = Trainer(session, None, dataset, None, LanguageModeling(), state, None, None)
    empty = Counts([0.0, 0.0], [0.0, 0.0], 0.0, 0.0, 0.0, "", "", read=[5.0, 3.0])
    trainer.accept(empty)
    assert trainer.state.losses == [3.0]
    one = Counts([0.0, 2.0], [0.0, 6.4], 2.0, 6.4, 0.0, "", "", read=[5.0, 3.0])
    assert trainer.judge(one, 1.0) is StepVerdict.NONE
    trainer.accept(one)
    assert trainer.state.losses == [3.2]


def poisoned(directory, guard, broken, ranks=1, steps=12, spikes=(), **changes):
    """A run some of whose steps give NaN gradients, or a loss that leaps."""
    recipe = tiny_recipe(
        directory,
        versions__v1__tokens=32 * 8 * steps,
        training__guard=guard,
        parallel={"data_parallel": ranks},
        **changes,
    )
    version = prepare_version(recipe)
    on_rank("train_poisoned", version, list(broken), list(spikes), ranks=ranks)
    return version


def weights_hash(version):
    return read_json(version / "version.json")["weights_hash"]


@pytest.mark.slow
def test_a_rollback_equals_steps_that_were_skipped_and_a_resume_equals_both(tmp_path):
    skip = poisoned(tmp_path / "skip", {"on_nan": "skip"}, [6, 7])
    back = poisoned(tmp_path / "back", {"on_nan": "rollback"}, [7])
    assert read_json(skip / "version.json")["skipped"] == [
        {"step": 6, "reason": "not_finite", "first_sample": 40, "num_samples": 8},
        {"step": 7, "reason": "not_finite", "first_sample": 48, "num_samples": 8},
    ]
    skipped = [{"step": 7, "reason": "not_finite", "first_sample": 40, "num_samples": 16}]
    assert read_json(back / "version.json")["skipped"] == skipped
    assert weights_hash(skip) == weights_hash(back)
    assert read_json(back / "checkpoints" / "step_000012" / "state.json")["optimizer_steps"] == 10

    lines = metrics(back)
    assert [line["skipped"] for line in lines] == [None] * 6 + ["rolled back to step 5"] + [None] * 5
    assert lines[6]["grad_norm"] is None and all(math.isfinite(line["loss"]) for line in lines)
    json.loads((back / "metrics.jsonl").read_text().splitlines()[6], parse_constant=pytest.fail)
    assert [line["stream"] for line in lines] == [line["stream"] for line in metrics(skip)]
    board = EventAccumulator(str(back / "tb"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/skipped")] == [7]

    for file in ("_SUCCESS", "version.json", "checkpoints/step_000012/_SUCCESS"):
        (back / file).unlink()
    on_rank("train_poisoned", back, [7], [])
    assert read_json(back / "version.json")["skipped"] == skipped
    assert weights_hash(skip) == weights_hash(back)


@pytest.mark.slow
def test_a_rollback_across_a_change_of_mixture_keeps_the_change_and_a_resume_agrees(tmp_path):
    """What was read stays read: only weights and moments go back, not the plan."""
    mixture = {
        "sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}},
        "reweight": {"interval": 3 * 32 * 8, "alpha": 0.5},
        "max_repetition": 100,
    }
    whole = poisoned(tmp_path / "whole", {"on_nan": "rollback"}, [8], versions__v1__mixture=mixture)
    expected = read_json(whole / "version.json")
    assert expected["skipped"] == [{"step": 8, "reason": "not_finite", "first_sample": 40, "num_samples": 24}]
    assert [phase["first_sample"] for phase in expected["phases"]] == [24, 48, 72]
    cut = tmp_path / "cut"
    shutil.copytree(whole.parents[1], cut)
    cut = cut / "versions" / "v1"
    for step, path in VersionPaths(cut).finished_checkpoints().items():
        if step > 5:  # before the change and the rollback over it
            shutil.rmtree(path)
    for name in ("_SUCCESS", "version.json", "eval.json"):
        (cut / name).unlink()
    on_rank("train_poisoned", cut, [8], [])
    found = read_json(cut / "version.json")
    for key in ("weights_hash", "phases", "skipped", "consumed"):
        assert found[key] == expected[key]
    assert [line["stream"] for line in metrics(cut)] == [line["stream"] for line in metrics(whole)]


@pytest.mark.slow
def test_a_spike_before_the_first_checkpoint_rolls_back_to_the_start(tmp_path):
    guard = {"on_spike": "rollback", "spike_factor": 1.5, "spike_window": 2}
    back = poisoned(tmp_path / "back", guard, [], steps=6, spikes=[4])
    skip = poisoned(tmp_path / "skip", {"on_nan": "skip"}, [1, 2, 3, 4], steps=6)
    assert read_json(back / "version.json")["skipped"] == [
        {"step": 4, "reason": "spike", "first_sample": 0, "num_samples": 32}
    ]
    assert weights_hash(skip) == weights_hash(back)


@pytest.mark.slow
def test_all_ranks_skip_what_one_of_them_cannot_use_until_the_limit(tmp_path):
    version = poisoned(tmp_path / "two", {"on_nan": "skip"}, [7], ranks=2, steps=8)
    assert [line["skipped"] for line in metrics(version)] == [None] * 6 + ["skipped", None]
    assert all(math.isfinite(line["loss"]) for line in metrics(version))
    with pytest.raises(AssertionError) as failure:
        poisoned(tmp_path / "limit", {"on_nan": "skip", "max_skips": 1}, [2, 3], steps=8)
    assert "at step 3 after 1 skipped ones (guard.max_skips)" in str(failure.value)
