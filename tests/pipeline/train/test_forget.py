"""A version that forgets by NPO beside replay: under every layout, killed and resumed."""

import math
import signal

import numpy as np
import pytest
from support import metrics, start_ranks, stopped_at
from tiny import prepare_version, random_data, random_documents, tiny_recipe, write_scores

from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.layout import layout_of
from tests.pipeline.train.plain_layouts import LAYOUTS

pytestmark = pytest.mark.slow

STEPS = 8
CHANGES = {
    "training__document_mask": True,
    "versions__v1__tokens": 32 * 8 * STEPS,
    "versions__v1__schedule": {"type": "constant", "max_lr": 0.003, "warmup": 0},
    "versions__v1__objective": {"type": "forget", "source": "a", "beta": 0.2},
    "versions__v1__mixture": {
        "sources": {"a": {"packing": "best_fit"}},
        "replay": {"share": 0.5, "sources": {"b": {}}},
        "max_repetition": 100,
    },
}


def prepared(out, **parallel):
    """The parent is one that guesses: as the model does, before it is trained."""
    recipe = tiny_recipe(out, parallel=parallel, **CHANGES)
    data, _, _ = random_data(out)
    guesses = [
        [np.full(len(each), math.log(300)) for each in random_documents(task, 60, 300)] for task in range(2)
    ]
    write_scores(data["a"] / "scores" / "test", data["a"], guesses)
    return prepare_version(recipe, scored=True), layout_of(recipe).world_size


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    finished = {}
    for name, parallel in LAYOUTS.items():
        directory, ranks = prepared(tmp_path_factory.mktemp(name), **parallel)
        outcome = start_ranks(directory, ranks)
        assert outcome.returncode == 0, outcome.stderr
        finished[name] = directory
    return finished


def test_layouts_agree(runs):
    expected = metrics(runs["tp1"])
    assert len(expected) == STEPS
    for name in ("tp2", "pp2", "dp2"):
        for left, right in zip(expected, metrics(runs[name]), strict=True):
            assert (left["stream"], left["selection"]) == (right["stream"], right["selection"])
            for told in ("loss", "forget_loss", "forget_cross_entropy", "retain_loss"):
                assert right[told] == pytest.approx(left[told], abs=1e-4)
            assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=1e-3)


def test_what_is_forgotten_gets_unlikely_and_what_is_retained_hardly(runs):
    first, *_, last = metrics(runs["tp1"])
    assert first["forget_loss"] == pytest.approx(2 / 0.2 * math.log(2), rel=0.05)  # r is about 0
    assert last["forget_loss"] < 0.9 * first["forget_loss"]
    change = {told: last[told] - first[told] for told in ("forget_cross_entropy", "retain_loss")}
    assert change["forget_cross_entropy"] > max(0.02, 2 * change["retain_loss"])
    for line in metrics(runs["tp1"]):
        assert line["loss"] == pytest.approx(line["forget_loss"] + line["retain_loss"], rel=1e-12)


def test_killed_and_resumed_it_is_the_same_run(runs, tmp_path):
    cut, ranks = prepared(tmp_path)
    assert stopped_at(cut, ranks, "trainer:train_step:7", signal.SIGKILL).returncode == -signal.SIGKILL
    outcome = start_ranks(cut, ranks)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 5" in outcome.stdout
    for left, right in zip(metrics(runs["tp1"]), metrics(cut), strict=True):
        left.pop("tokens_per_second"), right.pop("tokens_per_second")
        assert left == right
    hashes = [read_json(version / "version.json")["weights_hash"] for version in (runs["tp1"], cut)]
    assert hashes[0] == hashes[1]
