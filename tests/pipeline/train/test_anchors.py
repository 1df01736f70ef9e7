"""Versions with anchors, trained for real: under every layout, killed and resumed, resumed under another layout."""

import shutil
import signal

import pytest
import yaml
from soak import sampled
from support import metrics, on_rank, run_versions, start_ranks, stopped_at
from tiny import tiny_recipe

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.huggingface import tensor_files, weights_reader
from perdure.pipeline.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEP = 32 * 8
"""Tokens of a step."""
PLAIN = {
    "start": {"type": "update", "parent": "base"},
    "tokens": 10 * STEP,
    "mixture": {"sources": {"b": {}}, "max_repetition": 100},
    "schedule": {"type": "constant", "max_lr": 0.01, "warmup": 0},
}
BASE = PLAIN | {"start": {"type": "init"}, "mixture": {"sources": {"a": {}}, "max_repetition": 100}}
ANCHORS = {
    "l2": {"type": "l2", "strength": 20.0},
    "moments": {"type": "fisher", "strength": 1e5},
    "samples": {"type": "fisher", "strength": 1e3, "estimate": {"examples": 5, "source": "a"}},
}
LAYOUTS = {
    "one": {},
    "tp2": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp2": {"pipeline_parallel": 2},
    "dp2_distributed": {"data_parallel": 2, "distributed_optimizer": True, "overlap_grad_reduce": True},
}


def recipe_of(out, **changes) -> Recipe:
    versions = {"base": BASE, "plain": PLAIN, "zero": PLAIN | {"anchor": {"type": "l2", "strength": 0}}}
    versions |= {name: PLAIN | {"anchor": anchor} for name, anchor in ANCHORS.items()}
    # A fork may not be done by the step before which ranks are killed.
    changes |= {"training__checkpoint_interval": 4, "training__async_checkpoint": False}
    return tiny_recipe(out, versions=versions, **changes)


class Runs(dict):
    """By layout and anchor the run's recipe, trained when it is first asked for; all go on from one base."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def __missing__(self, key):
        layout, anchor = key
        out = shutil.copytree(self.base, self.base.parent / f"{layout}-{anchor}")
        recipe = self[key] = recipe_of(out, parallel=LAYOUTS[layout])
        run_versions(recipe, anchor)
        return recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "base"
    run_versions(recipe_of(out), "base")
    return Runs(out)


@pytest.fixture(scope="module")
def plain(runs):
    """The recipe of a run that has the versions without an anchor, and with one of strength 0."""
    recipe = recipe_of(shutil.copytree(runs.base, runs.base.parent / "plain"))
    run_versions(recipe, "plain", "zero")
    return recipe


def lines(recipe: Recipe, version: str) -> list[dict]:
    return without_time(metrics(recipe.paths.version(version).directory))


def without_time(told: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in told]


def weights_hash(recipe: Recipe, version: str) -> str:
    return read_json(recipe.paths.version(version).record)["weights_hash"]


@pytest.mark.parametrize(("anchor", "layout"), sampled(ANCHORS, [name for name in LAYOUTS if name != "one"]))
def test_layouts_agree_over_ten_steps(runs, anchor, layout):
    expected, found = lines(runs["one", anchor], anchor), lines(runs[layout, anchor], anchor)
    assert len(found) == len(expected) == 10
    for left, right in zip(expected, found, strict=True):
        assert left["stream"] == right["stream"]
        for key in ("loss", "grad_norm", "anchor_penalty"):
            assert right[key] == pytest.approx(left[key], abs=1e-4), key


def test_strength_0_is_the_plain_run_bit_for_bit(plain):
    assert lines(plain, "zero") == lines(plain, "plain")
    assert weights_hash(plain, "zero") == weights_hash(plain, "plain")
    assert "anchor_penalty" not in lines(plain, "plain")[0]


@pytest.fixture(scope="module")
def killed(runs, tmp_path_factory):
    """By anchor a version whose ranks were killed before step 7, with a checkpoint of step 4."""
    found = {}
    for anchor in ANCHORS:
        whole, found[anchor] = (
            runs["one", anchor].paths.version(anchor).directory,
            tmp_path_factory.mktemp(anchor),
        )
        for name in ("recipe.yaml", "inputs.json"):
            shutil.copy(whole / name, found[anchor])
        shutil.copytree(whole / "plan", found[anchor] / "plan")
        done = stopped_at(found[anchor], 1, "trainer:train_step:7", signal.SIGKILL)
        assert done.returncode == -signal.SIGKILL
    return found


@pytest.mark.parametrize("anchor", list(ANCHORS))
def test_a_run_that_was_killed_goes_on_bit_for_bit_and_estimates_nothing_again(
    runs, killed, anchor, tmp_path
):
    cut = shutil.copytree(killed[anchor], tmp_path / anchor)
    outcome = start_ranks(cut, 1)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 4" in outcome.stdout and "Fisher" not in outcome.stdout
    assert read_json(cut / "version.json")["weights_hash"] == weights_hash(runs["one", anchor], anchor)
    assert without_time(metrics(cut)) == lines(runs["one", anchor], anchor)


@pytest.mark.parametrize("anchor", list(ANCHORS))
def test_another_layout_goes_on(runs, killed, anchor, tmp_path):
    cut = shutil.copytree(killed[anchor], tmp_path / anchor)
    tree = yaml.safe_load((cut / "recipe.yaml").read_text())
    tree["parallel"] = LAYOUTS["dp2_distributed"]
    (cut / "recipe.yaml").write_text(yaml.safe_dump(tree))
    write_json(
        cut / "inputs.json", read_json(cut / "inputs.json") | {"recipe": hash_file(cut / "recipe.yaml")}
    )
    outcome = start_ranks(cut, 2)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 4" in outcome.stdout
    for left, right in zip(lines(runs["one", anchor], anchor), metrics(cut), strict=True):
        for key in ("loss", "anchor_penalty"):
            assert right[key] == pytest.approx(left[key], abs=1e-4)


@pytest.mark.parametrize("anchor", list(ANCHORS))
def test_anchors_hold_the_weights_near_the_parents(runs, plain, anchor):
    recipe = runs["one", anchor]
    assert distance(recipe, anchor) < distance(plain, "plain") / 1.1
    told = lines(recipe, anchor)
    assert told[0]["anchor_penalty"] == 0  # the first step begins at the parent
    assert told[0]["loss"] == lines(plain, "plain")[0]["loss"]
    assert min(line["anchor_penalty"] for line in told[1:]) > 0


def distance(recipe: Recipe, version: str) -> float:
    """From the base's weights to a version's."""
    base, other = (recipe.paths.version(name).export for name in ("base", version))
    read, read_other = weights_reader(base), weights_reader(other)
    return sum(float((read(name) - read_other(name)).norm() ** 2) for name in tensor_files(base)) ** 0.5


def test_the_penalty_is_that_of_the_weights_that_a_step_began_with(runs):
    """Step 9 begins with the weights of the checkpoint of step 8."""
    recipe = runs["one", "l2"]
    path = recipe.paths.version("l2").checkpoint(8)
    squares = on_rank("squared_distance", path, script="checkpoint_ranks.py")
    assert lines(recipe, "l2")[8]["anchor_penalty"] == pytest.approx(20.0 / 2 * squares, rel=1e-6)
