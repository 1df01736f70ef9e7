"""Versions held near a frozen teacher, trained for real: every start, layouts, an interruption, a rollback."""

import shutil
import signal

import pytest
import yaml
from support import metrics, on_rank, run_versions, start_ranks, stopped_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.layout import layout_of
from tests.pipeline.train.small_lineage import ONLY_A, STEP, directory, lines, version, weights

pytestmark = pytest.mark.slow

MIXTURE = {"sources": {"a": {}}, "replay": {"share": 0.25, "sources": {"b": {}}}, "max_repetition": 100}
ON_ALL = {"type": "kl", "on": "all", "weight": 0.5}
MOL = {"type": "kl", "on": "replayed", "instead_of_loss": True}
LAYOUTS = {
    "tp2_sequence": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp2_recompute": {"pipeline_parallel": 2, "recompute": True},
    "dp2_distributed": {"data_parallel": 2, "distributed_optimizer": True},
}


def prepared(out, anchor, parallel=None, **changes):
    """A version of ten steps that is held near the random weights that it starts with."""
    changes = {
        "versions__v1__tokens": 10 * STEP,
        "versions__v1__mixture": MIXTURE,
        "versions__v1__anchor": anchor,
        "training__document_mask": True,
    } | changes
    recipe = tiny_recipe(out, parallel=parallel or {}, **changes)
    return prepare_version(recipe, scored=True), layout_of(recipe).world_size


def trained(*arguments, **changes):
    made, ranks = prepared(*arguments, **changes)
    outcome = start_ranks(made, ranks)
    assert outcome.returncode == 0, outcome.stderr
    return made


def weights_hash(made):
    return read_json(made / "version.json")["weights_hash"]


def assert_agree(expected, found):
    for left, right in zip(metrics(expected), metrics(found), strict=True):
        assert (left["stream"], left["selection"]) == (right["stream"], right["selection"])
        for key in ("loss", "grad_norm", "kl"):
            assert right[key] == pytest.approx(left[key], abs=1e-4), key


@pytest.mark.parametrize(
    ("anchor", "selection", "tied"),
    [(ON_ALL, {"k": 0.6, "reference": "/unused", "scope": "global"}, True), (MOL, None, False)],
)
def test_layouts_agree_over_ten_steps(tmp_path, anchor, selection, tied):
    changes = {"versions__v1__selection": selection, "model__tie_embeddings": tied}
    expected = trained(tmp_path / "one", anchor, **changes)
    told = metrics(expected)
    assert len(told) == 10 and told[0]["kl"] == 0 < 1e-3 < told[-1]["kl"]
    for name, parallel in LAYOUTS.items():
        assert_agree(expected, trained(tmp_path / name, anchor, parallel, **changes))
    board = EventAccumulator(str(expected / "tb"))
    board.Reload()
    assert [event.value for event in board.Scalars("loss/kl")] == pytest.approx(
        [line["kl"] for line in told], rel=1e-6
    )


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit_and_goes_on_under_another_layout(tmp_path):
    changes = {"training__precision": "bf16", "training__async_checkpoint": False}
    distributed = LAYOUTS["dp2_distributed"]
    whole = trained(tmp_path / "whole", ON_ALL, distributed, **changes)
    cut, ranks = prepared(tmp_path / "cut", ON_ALL, distributed, **changes)
    assert stopped_at(cut, ranks, "trainer:train_step:8", signal.SIGKILL).returncode == -signal.SIGKILL
    outcome = start_ranks(cut, ranks)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 5" in outcome.stdout and "KL anchor" in outcome.stdout
    assert weights_hash(cut) == weights_hash(whole)
    assert [line["kl"] for line in metrics(cut)] == [line["kl"] for line in metrics(whole)]

    one = trained(tmp_path / "one", ON_ALL)
    shutil.rmtree(one / "checkpoints" / "step_000010")
    kept = tmp_path / "kept"
    shutil.copytree(one, kept)
    for file in ("_SUCCESS", "version.json"):
        (one / file).unlink()
    recipe = yaml.safe_load((one / "recipe.yaml").read_text())
    (one / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"parallel": LAYOUTS["tp2_sequence"]}))
    outcome = start_ranks(one, 2)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 5" in outcome.stdout and "the layout changed" in outcome.stdout
    assert_agree(kept, one)


def test_a_rollback_equals_steps_that_were_skipped(tmp_path):
    found = {}
    for action, broken in (("skip", [6, 7]), ("rollback", [7])):
        made, _ = prepared(tmp_path / action, MOL, training__guard={"on_nan": action})
        on_rank("train_poisoned", made, broken, [])
        found[action] = made
    assert weights_hash(found["skip"]) == weights_hash(found["rollback"])
    assert metrics(found["rollback"])[6]["skipped"] == "rolled back to step 5"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_teacher_is_what_a_version_starts_with_or_the_version_that_is_named(tmp_path, precision):
    held = {"mixture": ONLY_A, "anchor": ON_ALL}
    starts = {
        "update": {"type": "update", "parent": "base"},
        "keep": {"type": "update", "parent": "base", "moments": "keep"},
        "branch": {"type": "branch", "parent": "base", "step": 3},
    }
    versions = {"base": version({"type": "init"}, 6, mixture=ONLY_A)}
    versions |= {name: version(start, 3, **held) for name, start in starts.items()}
    named = held | {"anchor": ON_ALL | {"model": "base"}}
    versions["named"] = version({"type": "update", "parent": "update"}, 2, **named)
    recipe = tiny_recipe(tmp_path, versions=versions, training__precision=precision)
    run_versions(recipe)
    for name in starts:
        told = [line["kl"] for line in metrics(directory(recipe, name))]
        assert told[0] == 0 and all(told[1:]), name
    inputs = read_json(directory(recipe, "named") / "inputs.json")
    assert inputs["teacher_weights"] == str(directory(recipe, "base") / "hf")
    assert inputs["identity"]["teacher_weights"] == weights(recipe, "base")
    assert metrics(directory(recipe, "named"))[0]["kl"] > 0


def test_weight_0_is_the_plain_version_bit_for_bit_and_more_weight_holds_nearer(tmp_path):
    start = {"type": "update", "parent": "base"}
    anchors = {
        "plain": None,
        "zero": ON_ALL | {"weight": 0},
        "light": ON_ALL,
        "heavy": ON_ALL | {"weight": 20},
    }
    versions = {"base": version({"type": "init"}, 10, mixture=ONLY_A)}
    versions |= {
        name: version(start, 6, mixture={"sources": {"b": {}}, "max_repetition": 100}, anchor=anchor)
        for name, anchor in anchors.items()
    }
    recipe = tiny_recipe(tmp_path, versions=versions)
    run_versions(recipe)
    assert weights(recipe, "plain") == weights(recipe, "zero") != weights(recipe, "light")
    assert lines(recipe, "plain") == lines(recipe, "zero")
    assert "kl" not in lines(recipe, "zero")[0]
    light, heavy = (lines(recipe, name)[-1]["kl"] for name in ("light", "heavy"))
    assert 0 < heavy < 0.8 * light
