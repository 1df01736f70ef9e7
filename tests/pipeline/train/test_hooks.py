"""Elastic Reset, Reptile and running averages in real ranks: layouts agree, what is off is the plain run, a resume is exact."""

import shutil
import signal

import pytest
import yaml
from soak import sampled
from support import metrics, on_rank, run_versions, start_ranks, stopped_at
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.huggingface import tensor_files, weights_reader
from perdure.pipeline.model.layout import layout_of
from tests.pipeline.train.small_lineage import ONLY_A, version
from tests.pipeline.train.starters import on_checkpoint_rank

pytestmark = pytest.mark.slow

STEPS = 10
DISTRIBUTED = {"data_parallel": 2, "distributed_optimizer": True}
LAYOUTS = {"tp2": {"tensor_parallel": 2}, "pp2": {"pipeline_parallel": 2}, "dp2": DISTRIBUTED}
HOOKS = {
    "elastic": {"versions__v1__elastic_reset": {"interval": 3, "ema": 0.5}, "training__ema": 0.75},
    "reptile": {"versions__v1__reptile": {"interval": 4, "rate": 0.25}, "training__ema": 0.75},
}
WITHOUT_EFFECT = {
    "elastic reset beyond the budget": {"versions__v1__elastic_reset": {"interval": 11, "ema": 0.5}},
    "reptile beyond the budget": {"versions__v1__reptile": {"interval": 11, "rate": 0.1}},
    "reptile that keeps all": {"versions__v1__reptile": {"interval": 3, "rate": 1}},
    "a running average": {"training__ema": 0.9},
}


def trained(out, **changes):
    """A version of 10 steps with checkpoints at 5 and 10."""
    version = prepare_version(tiny_recipe(out, versions__v1__tokens=32 * 8 * STEPS, **changes))
    outcome = start_ranks(version, layout_of(tiny_recipe(out, **changes)).world_size)
    assert outcome.returncode == 0, outcome.stderr
    return version


def losses(version) -> list[float]:
    return [line["loss"] for line in metrics(version)]


def weights_hash(version) -> str:
    return read_json(version / "version.json")["weights_hash"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """With every kind of hook, on one rank."""
    return {name: trained(tmp_path_factory.mktemp(name), **changes) for name, changes in HOOKS.items()}


@pytest.mark.parametrize("changes", WITHOUT_EFFECT.values(), ids=WITHOUT_EFFECT)
def test_what_never_acts_is_the_plain_run_bit_for_bit(tmp_path, plain, changes):
    version = trained(tmp_path, **changes)
    assert losses(version) == losses(plain)
    assert weights_hash(version) == weights_hash(plain)


@pytest.mark.parametrize("name", HOOKS)
def test_what_acts_leaves_the_steps_up_to_the_first_interval_alone(plain, alone, name):
    interval = next(iter(HOOKS[name].values()))["interval"]
    equal = [left == right for left, right in zip(losses(plain), losses(alone[name]), strict=True)]
    assert equal == [True] * interval + [False] * (STEPS - interval)


def test_a_step_that_is_skipped_ends_no_interval(tmp_path):
    """Step 3 of an interval of 3: nothing is reset before step 6."""
    kept = {}
    for interval in (3, 11):
        rule = {"interval": interval, "ema": 0.5}
        changes = {"versions__v1__elastic_reset": rule, "training__guard": {"on_nan": "skip"}}
        recipe = tiny_recipe(tmp_path / str(interval), versions__v1__tokens=32 * 8 * STEPS, **changes)
        version = prepare_version(recipe)
        on_rank("train_poisoned", version, [3], [])
        kept[interval] = losses(version)
    equal = [left == right for left, right in zip(kept[3], kept[11], strict=True)]
    assert equal == [True] * 6 + [False] * 4


@pytest.mark.parametrize(("name", "layout"), sampled(HOOKS, LAYOUTS))
def test_layouts_agree(tmp_path, alone, name, layout):
    version = trained(tmp_path, parallel=LAYOUTS[layout], **HOOKS[name])
    assert losses(version) == pytest.approx(losses(alone[name]), abs=1e-4)
    expected, found = weights_reader(alone[name] / "hf"), weights_reader(version / "hf")
    for tensor in tensor_files(version / "hf"):
        assert (expected(tensor) - found(tensor)).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "precision"), sampled(HOOKS, ["fp32", "bf16"]))
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, name, precision):
    """And goes on under another layout, equal to rounding: the kill is between two intervals, behind a checkpoint within
    one."""
    changes = {"parallel": DISTRIBUTED, "training__precision": precision, **HOOKS[name]}
    changes["training__async_checkpoint"] = (
        False  # a fork may not be done by the step before which ranks are killed
    )
    whole = trained(tmp_path / "whole", **changes)
    cut = prepare_version(tiny_recipe(tmp_path / "cut", versions__v1__tokens=32 * 8 * STEPS, **changes))
    assert stopped_at(cut, 2, "trainer:train_step:8", signal.SIGKILL).returncode == -signal.SIGKILL
    other = shutil.copytree(cut, tmp_path / "cut" / "versions" / "other")
    outcome = start_ranks(cut, 2)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 5" in outcome.stdout
    assert losses(cut) == losses(whole)
    expected, found = (
        on_checkpoint_rank("checkpoint_tensors", version)["tensors"] for version in (whole, cut)
    )
    assert expected == found
    assert {"ema", "exp_avg"} < {tensor.split(".")[2] for tensor in found if "optimizer" in tensor}

    tree = yaml.safe_load((other / "recipe.yaml").read_text()) | {"parallel": {"tensor_parallel": 2}}
    (other / "recipe.yaml").write_text(yaml.safe_dump(tree))
    outcome = start_ranks(other, 2)
    assert outcome.returncode == 0 and "resume at step 5" in outcome.stdout, outcome.stderr
    # bf16 rounds its own way under every layout, whatever acts between steps.
    assert losses(other) == pytest.approx(losses(whole), abs=1e-4 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_running_average_is_that_of_every_steps_fp32_weights(tmp_path, precision):
    """Recomputed in fp64 from the checkpoints of all steps, which `keep: {every: 1}` keeps: what Reptile makes of a step
    counts."""
    keep = {"versions__v1__keep": {"every": 1}, "training__guard": {"on_nan": "rollback"}}
    version = trained(tmp_path, training__precision=precision, **keep, **HOOKS["reptile"])
    steps = [path.name for path in sorted((version / "checkpoints").iterdir())]
    assert steps == [f"step_{step:06d}" for step in range(STEPS + 1)]
    scale, difference = on_rank("running_average_difference", version, 0.75, script="averaging_ranks.py")
    assert difference < 1e-6 * scale


def test_what_goes_on_from_a_checkpoint_holds_to_that_checkpoint(tmp_path):
    """A rate of next to nothing brings the weights back to the parent's: those of its step 3, or of its last one."""
    reptile = {"reptile": {"interval": 2, "rate": 1e-9}}
    kept = {"type": "update", "parent": "base", "moments": "keep"}
    versions = {
        "base": version({"type": "init"}, 4, mixture=ONLY_A, keep=[3]),
        "kept": version(kept, 2, mixture=ONLY_A) | reptile,
        "branch": version({"type": "branch", "parent": "base", "step": 3}, 2) | reptile,
        "third": {"start": {"type": "average", "of": "base", "steps": [3]}, "tokens": 0},
    }
    recipe = tiny_recipe(tmp_path, versions=versions, parallel=DISTRIBUTED, training__ema=0.9)
    run_versions(recipe)
    base, kept, branch, third = (weights_reader(recipe.paths.version(name).export) for name in versions)
    for name in tensor_files(recipe.paths.version("base").export):
        assert (kept(name) - base(name)).abs().max() < 1e-8, name
        assert (branch(name) - third(name)).abs().max() < 1e-8, name
    assert (base("model.norm.weight") - third("model.norm.weight")).abs().max() > 1e-4
