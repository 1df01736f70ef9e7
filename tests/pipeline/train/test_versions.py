"""Versions trained for real: branches, kept moments, replay from parents, shares that follow perplexity."""

import shutil

import numpy as np
import pytest
import yaml
from support import metrics, run_versions, start_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_recipe

from perdure.pipeline.cli.log import diff, log
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.plan.plan import consumed_by_version, locate, open_plan
from tests.pipeline.train.small_lineage import (
    ALPHA,
    CONSTANT,
    ONLY_A,
    STEP,
    VERSIONS,
    directory,
    labels,
    lines,
    recipe_of,
    version,
    weights,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # the lineage is six trainings


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    recipe = recipe_of(tmp_path_factory.mktemp("lineage"))
    run_versions(recipe)
    return recipe


def test_the_main_path_is_bit_identical_without_branches(lineage, tmp_path):
    alone = tiny_recipe(tmp_path, versions={"whole": VERSIONS["whole"]})
    run_versions(alone)
    assert weights(alone, "whole") == weights(lineage, "whole")
    assert lines(alone, "whole") == lines(lineage, "whole")
    assert list(VersionPaths(directory(alone, "whole")).finished_checkpoints()) == [15, 16]
    assert list(VersionPaths(directory(lineage, "whole")).finished_checkpoints()) == [7, 15, 16]


def test_a_branch_goes_on_with_weights_moments_and_data_of_the_main_path(lineage):
    """With the main path's schedule it is the main path, bit for bit; its samples keep their numbers."""
    assert lines(lineage, "branch") == lines(lineage, "whole")[7:]
    assert weights(lineage, "branch") == weights(lineage, "whole")
    record = read_json(directory(lineage, "branch") / "version.json")
    whole = read_json(directory(lineage, "whole") / "version.json")
    assert record["tokens"] == labels(lineage, "branch") < record["budget_tokens"] == 9 * STEP
    assert record["consumed"] == {"a": record["tokens"]}
    assert record["lineage_tokens"] == whole["tokens"] == labels(lineage, "whole") < 16 * STEP
    told = metrics(directory(lineage, "branch"))
    assert [line["budget_tokens"] for line in told] == [STEP * step for step in range(1, 10)]
    assert [line["tokens"] for line in told] == [
        labels(lineage, "branch", 0, 8 * step) for step in range(1, 10)
    ]
    assert [line["trained_tokens"] for line in told] == np.diff(
        [0, *(line["tokens"] for line in told)]
    ).tolist()


def test_an_update_that_keeps_moments_is_the_uninterrupted_run(lineage):
    ignored = (
        "tokens_per_second",
        "step",
        "tokens",
        "budget_tokens",
        "stream",
        "selection",
    )  # samples are numbered anew
    assert lines(lineage, "kept", ignored) == lines(lineage, "whole", ignored)[8:]
    assert weights(lineage, "kept") == weights(lineage, "whole")


def test_shares_follow_held_out_perplexity_by_the_formula(lineage):
    phases = read_json(directory(lineage, "drift") / "version.json")["phases"]
    assert [phase["first_sample"] for phase in phases] == [24, 48, 72, 96]
    ratios = {"a": 0.1, "b": 0.9}
    rises = []
    for phase in phases:
        change = {s: phase["perplexity"][s] - phase["perplexity_before"][s] for s in ratios}
        largest = max(abs(value) for value in change.values())
        raw = {s: ratio * (1 + ALPHA * change[s] / largest) for s, ratio in ratios.items()}
        rises.append((change["a"] > 0, raw["a"] / sum(raw.values()) > ratios["a"]))
        ratios = {s: value / sum(raw.values()) for s, value in raw.items()}
        counts = phase["counts"]
        for source, ratio in ratios.items():
            assert phase["ratios"][source] == pytest.approx(ratio, abs=5e-5)
            assert counts[source] / sum(counts.values()) == pytest.approx(ratio, abs=1e-4)
    assert (True, True) in rises, phases  # `a` got worse, and got more
    assert phases[-1]["ratios"]["a"] > 0.1
    board = EventAccumulator(str(directory(lineage, "drift") / "tb"))
    board.Reload()
    shown = board.Scalars("mixture/a")
    assert [event.step for event in shown] == [1, 4, 7, 10, 13]
    assert shown[-1].value == pytest.approx(ratios["a"], abs=1e-4)


def test_all_ranks_decide_alike_and_every_layout_as_one_rank_does(tmp_path):
    """Ranks see parts of the losses, or none; all of them need the new shares to read the same samples."""
    mixture = VERSIONS["drift"]["mixture"] | {"reweight": {"interval": 2 * STEP, "alpha": ALPHA}}
    layouts = {
        "one": {},
        "pp2": {"pipeline_parallel": 2},
        "tp2_dp2": {"tensor_parallel": 2, "data_parallel": 2},
    }
    told = {}
    for name, parallel in layouts.items():
        versions = {"v1": version({"type": "init"}, 5, mixture=mixture)}
        recipe = tiny_recipe(tmp_path / name, versions=versions, parallel=parallel)
        run_versions(recipe)
        phases = read_json(directory(recipe, "v1") / "version.json")["phases"]
        told[name] = phases, [line["stream"] for line in metrics(directory(recipe, "v1"))]
    expected, streams = told.pop("one")
    assert [phase["first_sample"] for phase in expected] == [16, 32]
    for phases, read in told.values():
        for left, right in zip(expected, phases, strict=True):
            assert left["ratios"] == pytest.approx(right["ratios"], abs=1e-4)
            assert left["counts"] == right["counts"]
        assert read == streams


def test_resumed_within_a_phase_equals_uninterrupted_and_keeps_the_schedule_it_began_with(lineage, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(lineage.directory, out)
    cut = out / "versions" / "drift"
    for step, path in VersionPaths(cut).finished_checkpoints().items():
        if step > 5:
            shutil.rmtree(path)
    for name in ("_SUCCESS", "version.json", "eval.json"):
        (cut / name).unlink()
    # Whatever stands in the recipe by now, the constants are those of the checkpoint.
    tree = yaml.safe_load((cut / "recipe.yaml").read_text())
    tree["versions"]["drift"]["schedule"]["max_lr"] = 0.5
    (cut / "recipe.yaml").write_text(yaml.safe_dump(tree))
    inputs = read_json(cut / "inputs.json")
    write_json(cut / "inputs.json", inputs | {"recipe": hash_file(cut / "recipe.yaml")})
    outcome = start_ranks(cut, 1)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 5" in outcome.stdout
    expected, found = (read_json(path / "version.json") for path in (directory(lineage, "drift"), cut))
    assert found["weights_hash"] == expected["weights_hash"]
    assert found["phases"] == expected["phases"]
    assert found["schedule"]["max_lr"] == 0.01


def test_replay_draws_what_the_ancestors_consumed_and_new_data_goes_on(lineage):
    seen = set()
    for name in ("half", "kept", "drift"):
        phases = read_json(directory(lineage, name) / "version.json")["phases"]
        plan = open_plan(directory(lineage, name) / "plan", appended=phases)
        met = [locate(plan, index) for index in range(plan.num_samples)]
        fresh = {(key, sample) for key, epoch, sample in met if epoch == 0}
        assert not seen & fresh  # no repeats while something is unseen
        seen |= {(key, sample) for key, _, sample in met}
    plan = open_plan(directory(lineage, "last") / "plan")
    taken = dict.fromkeys(plan.keys, 0)
    for index in range(plan.num_samples):
        key, epoch, sample = locate(plan, index)
        if key.startswith("replay/"):
            assert (key.removeprefix("replay/"), sample) in seen
        elif epoch == 0:
            assert (key, sample) not in seen
        taken[key] += 1
        replayed = sum(count for key, count in taken.items() if key.startswith("replay/"))
        assert abs(replayed - 0.25 * (index + 1)) <= 1
    assert taken == consumed_by_version(plan)
    assert [phase.first_sample for phase in plan.phases] == [0, 16]


def test_the_log_shows_the_tree_and_what_is_left_of_every_source(lineage):
    versions = {entry["id"]: entry for entry in log(lineage)["versions"]}
    assert [entry["parent"] for entry in versions.values()] == [None, "whole", None, "half", "kept", "drift"]
    assert {entry["status"] for entry in versions.values()} == {"finished"}
    assert versions["branch"]["branch_step"] == 7 and versions["whole"]["checkpoints"] == [7, 15, 16]
    before = [labels(lineage, name) for name in ("half", "kept", "drift", "last")]
    assert (versions["last"]["tokens"], versions["last"]["lineage_tokens"]) == (before[-1], sum(before))
    assert sum(before) < (8 + 8 + 13 + 4) * STEP  # padding is no token
    assert (versions["last"]["phase"], versions["last"]["learning_rate"]) == ("decay", pytest.approx(1e-4))
    before = {}
    for name in ("half", "kept", "drift", "last"):
        for source, line in versions[name]["sources"].items():
            assert line["consumed"] + line["remaining"] == line["total"]
            assert line["consumed"] >= before.get(source, 0)
            before[source] = line["consumed"]
    line = versions["kept"]["sources"]["a"]
    padding = -line["total"] % lineage.training.seq_length  # of the one pass that was finished
    assert line["consumed"] + line["repeated"] == 16 * STEP - padding
    assert versions["last"]["sources"]["a"]["replayed"] + versions["last"]["sources"]["b"]["replayed"] == STEP
    assert [phase["after_step"] for phase in versions["drift"]["phases"]] == [0, 3, 6, 9, 12]
    assert [phase["reason"] for phase in versions["last"]["phases"]] == ["start", "switch"]


def test_the_difference_of_two_versions(lineage):
    found = diff(lineage, "half", "kept")
    assert found["schedule"] == []
    assert "start.type: 'init' -> 'update'" in found["recipe"]
    assert f"tokens.a.consumed: {8 * STEP} -> " in " ".join(found["data"])
    losses = [
        read_json(directory(lineage, name) / "eval.json")["domains"]["a"]["loss"] for name in ("half", "kept")
    ]
    assert found["results"]["a"] == {
        "half": losses[0],
        "kept": losses[1],
        "difference": losses[1] - losses[0],
    }


def test_checkpoints_that_are_gone_are_named_with_those_that_are_there(lineage, tmp_path):
    late = version({"type": "branch", "parent": "whole", "step": 9}, 2)
    with pytest.raises(PerdureError) as refused:
        run_versions(recipe_of(lineage.directory, late=late), "late")
    assert "whole has no checkpoint of step 9" in str(refused.value)
    assert "those of steps 7, 15, 16" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    far = version({"type": "update", "parent": "gone"}, 2, mixture=ONLY_A)
    recipe = recipe_of(lineage.directory, gone=VERSIONS["half"], far=far)
    with pytest.raises(PerdureError, match=r"version far: its ancestor gone has no plan in .*versions/gone"):
        run_versions(recipe, "far")


def test_a_parent_with_another_tokenizer_is_refused_with_both_hashes(lineage, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(lineage.directory, out)
    path = out / "versions" / "half" / "version.json"
    write_json(path, read_json(path) | {"tokenizer_hash": "0123456789"})
    manifest = path.with_name("manifest.json")
    write_json(manifest, read_json(manifest) | {"files": {}})
    shutil.rmtree(out / "versions" / "kept")
    with pytest.raises(PerdureError) as refused:
        run_versions(recipe_of(out), "kept")
    assert "half was trained with another tokenizer (01234567 -> test)" in str(refused.value)


def test_another_recipe_under_a_started_version_names_what_differs(lineage):
    changed = VERSIONS["kept"] | {"schedule": CONSTANT | {"max_lr": 0.02}}
    with pytest.raises(PerdureError, match=r"What differs: version\.schedule\.max_lr: 0\.01 -> 0\.02$"):
        run_versions(recipe_of(lineage.directory, kept=changed), "kept")
