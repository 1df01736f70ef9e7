"""What a version was measured on: numbers of other held-out text or probes are never shown."""

import shutil

import pytest

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import (
    evaluation,
    later_directory,
    measured_on,
    record_data,
    run_data_directories,
)
from perdure.pipeline.evaluate.report.summary import build_report, summarize

ALL = ["base", "reference", "update", "control"]


def other_data(recipe, source: str):
    """Another directory of a source's data, as under another cleaning."""
    directory = recipe.directory / "data" / f"{source}@ffffffff"
    shutil.copytree(next(recipe.directory.glob(f"data/{source}@0*")), directory)
    manifest = read_json(directory / "manifest.json")
    finish(directory, manifest | {"files": {"heldout.00000.bin": {"sha256": "another"}}})
    return directory


def test_runs_that_share_a_version_but_not_the_text_keep_their_own_numbers(recipe, run):
    data = run(recipe, ALL)
    other = data | {"code": other_data(recipe, "code")}
    mine, theirs = measured_on(recipe, data), measured_on(recipe, other)
    base = recipe.directory / "versions" / "base"
    assert evaluation(base, mine)["domains"]["code"]["loss"] == 6.0 and evaluation(base, theirs) is None
    missing = summarize(recipe, other)
    assert missing["loss_matrix"] == [[None] * 3] * 5 and missing["unmeasured"] == ALL
    # Measured for the other run, too: now each has its own.
    later = later_directory(base, theirs)
    for file in ("eval.json", "eval_initial.json"):
        found = read_json(base / file) | {"measured": theirs}
        found["domains"] = {domain: entry | {"loss": 1.0} for domain, entry in found["domains"].items()}
        write_json(later / file, found)
    finish(later, {})
    shown = summarize(recipe, other)
    assert shown["loss_matrix"][:3] == [[1.0] * 3, [1.0] * 3, [None] * 3] and shown["unmeasured"] == ALL[1:]
    assert summarize(recipe, data)["loss_matrix"][1] == [4.5, 4.25, 6.0]
    assert (shown["measured"], summarize(recipe, data)["measured"]) == (theirs, mine)


@pytest.mark.parametrize("change", [{"max_tokens": 5}, {"probes": ["facts.jsonl"]}])
def test_a_report_after_a_change_of_evaluation_has_no_old_numbers(recipe, run, change):
    data = run(recipe, ALL)
    changed = type(recipe).model_validate(recipe.model_dump() | {"evaluation": change})
    report = summarize(changed, data)
    assert report["unmeasured"] == ALL and report["loss_matrix"] == [[None] * 3] * 5
    assert summarize(recipe, data)["unmeasured"] == []


def test_the_initial_model_is_of_the_same_text(recipe, run):
    data = run(recipe, ALL)
    assert summarize(recipe, data)["loss_matrix"][0] != [None] * 3
    # A version that had begun before the change: measured on the new text at its end alone.
    for path in recipe.directory.glob("versions/*/eval_initial.json"):
        write_json(path, read_json(path) | {"measured": {"max_tokens": 7}})
    report = summarize(recipe, data)
    assert report["loss_matrix"][0] == [None] * 3 and report["loss_matrix"][1] == [4.5, 4.25, 6.0]


def test_a_curve_that_began_on_other_text_is_not_shown(recipe, run):
    data = run(recipe, ALL)
    path = recipe.directory / "versions/update/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    on = hash_of(read_json(recipe.directory / "versions/update/inputs.json")["measured"])[:8]
    for then, shown in ((on, True), ("another", False)):
        losses = f'"heldout_before": {{"prose": 4.0}}, "heldout_on": "{then}"'
        path.write_text(lines[0].replace("{", "{" + losses + ", ", 1) + "".join(lines[1:]))
        assert ("update" in summarize(recipe, data)["stability_gap"]) is shown


def test_losses_while_training_are_of_the_same_text(recipe, run):
    data = run(recipe, ALL)
    path = recipe.directory / "versions/update/metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    losses = '"heldout_before": {"prose": 4.0, "clean": 4.0, "code": 4.0}'
    path.write_text(lines[0].replace("{", "{" + losses + ", ", 1) + "".join(lines[1:]))
    assert set(summarize(recipe, data)["stability_gap"]["update"]["loss"]) == {"prose", "clean", "code"}
    found = summarize(recipe, data | {"code": other_data(recipe, "code")})
    assert set(found["stability_gap"]["update"]["loss"]) == {"prose", "clean"}


def test_a_run_knows_its_data_as_long_as_its_recipe_says_the_same(recipe, run, monkeypatch):
    data = run(recipe, ALL)
    record_data(recipe, data)
    nothing = dict.fromkeys(recipe.sources)
    monkeypatch.setattr("perdure.pipeline.data.stage.finished_data", lambda _recipe: nothing)
    assert run_data_directories(recipe) == data
    assert build_report(recipe)["loss_matrix"][1] == [4.5, 4.25, 6.0]
    # A version's directory may be shared with other runs; what they say there of their data is not asked.
    write_json(recipe.directory / "versions/control/inputs.json", {"data": {"code": "data/code@ffffffff"}})
    assert run_data_directories(recipe) == data
    tree = recipe.model_dump()
    tree["sources"]["code"]["heldout_fraction"] = 0.3
    assert run_data_directories(type(recipe).model_validate(tree)) == nothing
    shutil.rmtree(data["code"])
    assert run_data_directories(recipe) == data | {"code": None}
