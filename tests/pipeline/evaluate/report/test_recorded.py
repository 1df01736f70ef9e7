"""What is said of a version that has begun is from its own records, whatever the recipe says today."""

import json
import math
import shutil

import numpy as np
import pytest
import yaml
from tiny import tiny_recipe

from perdure.launch.status import status
from perdure.pipeline.cli.log import diff, log
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import measured_on
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.plan.recorded import as_recorded, recorded
from tests.pipeline.evaluate.report.edits import FIELDS, edits
from tests.pipeline.evaluate.report.recorded_run import (
    STEP,
    VERSIONS,
    WAITING,
    make_data,
    recipe_in,
    write_version,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five finished versions with real plans and made-up losses: its recipe and its data."""
    recipe = recipe_in(tmp_path_factory.mktemp("recorded"))
    data = make_data(recipe)
    on = measured_on(recipe, data)
    for number, name in enumerate(recipe.versions):
        write_version(recipe, name, number, data, on)
    return recipe, data


def of_version(report: dict, name: str) -> dict:
    """All that a report says of a version, but its losses."""
    row = next(number for number, version in enumerate(report["versions"]) if version["id"] == name)
    version = dict(report["versions"][row])
    for key in ("evaluation", "change"):
        del version[key]
    keyed = ("consumed", "selection", "curves", "passages", "chosen")
    return {"version": version} | {key: report[key].get(name) for key in keyed}


def losses_of(report: dict, name: str) -> dict:
    """All that a report says of a version's losses, by domain, so that other columns do not count."""
    row = 1 + next(number for number, version in enumerate(report["versions"]) if version["id"] == name)
    keyed = ("acc", "bwt", "fwt", "fwt_gem", "forgetting", "stability_gap")
    return {
        "row": dict(zip(report["domains"], report["loss_matrix"][row])),
        "change": report["versions"][row - 1]["change"],
        **{key: report[key].get(name) for key in keyed},
    }


CHOOSING = ("name", "evaluation", "versions without")
"""Edits of what chooses the title, the text that is measured, and the versions that are shown."""


def as_bytes(report: dict) -> str:
    """All of a report but `edited`, which tells what the recipe says now; pages are made from the report alone."""
    return json.dumps(report | {"edited": {}})


def test_no_edit_of_the_recipe_changes_what_is_said_of_finished_versions(run):
    recipe, data = run
    before = summarize(recipe, data)
    assert [version["status"] for version in before["versions"]] == ["finished"] * 5
    assert all(version["sources"] and version["phases"] for version in before["versions"])
    unmeasured, noticed, compared = set(), set(), 0
    made = edits(recipe)
    for what, edited in made.items():
        after = summarize(edited, data | dict.fromkeys(set(edited.sources) - set(data)))
        names = [name for name in VERSIONS if name in {version["id"] for version in after["versions"]}]
        assert set(names) >= set(edited.versions) & set(VERSIONS), what
        for name in names:
            assert of_version(after, name) == of_version(before, name), what
            if name in after["unmeasured"]:
                assert set(losses_of(after, name)["row"].values()) == {None}, what
            else:
                assert losses_of(after, name) == losses_of(before, name), what
        if not after["unmeasured"] and names == list(VERSIONS):
            assert after["findings"] == before["findings"] and after["intervals"] == before["intervals"], what
        if not what.startswith(CHOOSING):
            assert as_bytes(after) == as_bytes(before), what
            compared += 1
        unmeasured |= {what} if after["unmeasured"] else set()
        noticed |= {what} if after["edited"] else set()
    assert len(FIELDS) > 180 and {"all of training", "seed", "versions.next.weight_decay"} <= noticed
    assert {what.partition(" ")[0] for what in unmeasured} == {"evaluation.max_tokens", "evaluation.probes"}
    assert compared > 140
    print(f"{len(FIELDS)} fields in {len(made)} recipes, of which {len(noticed)} are said to be edited")


def test_log_diff_and_status_say_what_is_recorded(run, tmp_path):
    recipe, _ = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    before = {version["id"]: version for version in log(recipe)["versions"]}
    pair = diff(recipe, "next", "plain")
    assert pair["recipe"] and pair["results"]["a"]["difference"] == pytest.approx(1 - math.sqrt(2))
    (tmp_path / "run" / "launch").mkdir()
    launched = tmp_path / "run" / "launch" / "recipe.yaml"
    ages = ("seconds_since_step",)

    def stand(recipe):
        launched.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        return {
            version["name"]: {key: value for key, value in version.items() if key not in ages}
            for version in status(tmp_path / "run")["versions"]
        }

    stood = stand(recipe)
    tried = 0
    for what, edited in edits(recipe).items():
        if not what.startswith(("versions", "all of training", "seed", "model")) or "sources" in what:
            continue
        after = {version["id"]: version for version in log(edited)["versions"]}
        assert {name: before[name] for name in after} == after, what
        if {"next", "plain"} <= set(edited.versions):
            assert diff(edited, "next", "plain") == pair, what
        now = stand(edited)
        assert {name: stood[name] for name in now} == now, what
        tried += 1
    assert tried > 50


def test_a_version_that_waits_is_as_the_recipe_says_today(run):
    recipe, data = run
    versions = {"base": VERSIONS["base"] | {"tokens": 40 * STEP}, "later": WAITING}
    edited = tiny_recipe(recipe.directory, versions=versions, evaluation={"max_tokens": 500, "interval": 5})
    base, later = summarize(edited, data)["versions"]
    assert (base["planned_steps"], base["status"]) == (20, "finished")
    assert (later["schedule"]["type"], later["planned_steps"], later["status"]) == ("constant", 4, "waiting")
    assert log(edited)["versions"][1]["lineage_tokens"] == 20 * STEP  # those of `base` as it was made


def test_what_differs_is_named(run):
    recipe, data = run
    assert summarize(recipe, data)["edited"] == {}
    edited = recipe.model_copy(update={"seed": 5})
    said = summarize(edited, data)["edited"]
    assert set(said) == set(VERSIONS) and said["base"] == ["seed: 1234 -> 5"]


def test_versions_made_under_different_settings_each_have_their_own(run, tmp_path):
    """Two first models, trained one by one, the second after an edit of the batch size."""
    versions = dict.fromkeys(("small", "large"), VERSIONS["base"])
    recipe = tiny_recipe(tmp_path, versions=versions)
    data = make_data(recipe)
    other = tiny_recipe(tmp_path, versions=versions, training__global_batch_size=16)
    on = measured_on(recipe, data)
    write_version(recipe, "small", 0, data, on)
    write_version(other, "large", 1, data, on)
    made = recorded(recipe)
    assert [made[name].training.global_batch_size for name in versions] == [8, 16]
    small, large = summarize(recipe, data)["versions"]
    assert (small["planned_steps"], large["planned_steps"]) == (20, 10)
    assert [small["schedule_phases"][1][key] for key in ("after_step", "after_tokens")] == [11, 11 * STEP]
    assert [large["schedule_phases"][1][key] for key in ("after_step", "after_tokens")] == [5, 5 * 2 * STEP]


def test_runs_whose_records_are_older_still_report(run, tmp_path):
    recipe, data = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    for path in (tmp_path / "run").glob("versions/*/recipe.yaml"):
        tree = yaml.safe_load(path.read_text())
        for version in tree["versions"].values():
            if replay := version["mixture"]["replay"]:
                del replay["share_of"]
        del tree["logging"], tree["cluster"], tree["evaluation"]["contamination"]
        path.write_text(yaml.safe_dump(tree))
        write_json(path.parent / "manifest.json", {})  # nor were there hashes of a version's files
    older = summarize(recipe, data)["versions"][1]
    assert older["schedule"]["type"] == "autoregressive"
    # Before there was `share_of`, a share was that of the tokens read, with selection, too.
    assert [member["share"] for member in older["mixture"]] == [0.75, 0.25]
    for path in (tmp_path / "run").glob("versions/*/recipe.yaml"):
        path.unlink()
    assert as_recorded(recipe) is recipe
    assert summarize(recipe, data)["versions"][1]["schedule"]["type"] == "autoregressive"


def test_a_damaged_record_is_one_line(run, tmp_path):
    recipe, data = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    path = tmp_path / "run" / "versions" / "next" / "recipe.yaml"
    for content in (b"name: [", b"\xff\xfe\x00", b"- a list", path.read_bytes()[:400]):
        path.write_bytes(content)
        with pytest.raises(PerdureError, match=r"next/recipe\.yaml") as caught:
            summarize(recipe, data)
        assert "\n" not in str(caught.value)


def test_the_schedule_is_the_one_that_the_version_began_with(run, tmp_path):
    recipe, data = run
    shutil.copytree(recipe.directory, tmp_path / "run")
    recipe = recipe.model_copy(update={"out": tmp_path / "run"})
    path = tmp_path / "run" / "versions" / "side" / "version.json"
    schedule = {"type": "decay", "max_lr": 0.25, "min_lr": 0.125, "shape": "linear"}
    write_json(path, read_json(path) | {"schedule": schedule})
    finish(path.parent, {})
    side = next(version for version in summarize(recipe, data)["versions"] if version["id"] == "side")
    assert side["schedule"] == schedule
    assert np.isclose(log(recipe)["versions"][3]["learning_rate"], 0.125)
