"""Versions that average checkpoints of another one, from their preparation to their report, and what is made from them."""

import pytest
from support import run_versions, start_ranks
from tiny import tiny_recipe

from perdure.pipeline.cli.log import log
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.run.verify import verify
from tests.pipeline.train.small_lineage import ONLY_A, version

pytestmark = pytest.mark.slow


def average(**fields) -> dict:
    return {"start": {"type": "average", "of": "base"} | fields, "tokens": 0}


VERSIONS = {
    "base": version({"type": "init"}, 8, mixture=ONLY_A, keep={"every": 2}),
    "averaged": average(last=3),
    "one": average(steps=[8]),
    "running": average(shape="ema"),
    "next": version({"type": "update", "parent": "averaged"}, 2, mixture=ONLY_A, schedule={"type": "decay"}),
}


def recipe_of(out, versions=VERSIONS):
    return tiny_recipe(out, versions=versions, training__precision="bf16", training__ema=0.5)


def record(recipe, name):
    return read_json(recipe.paths.version(name).record)


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    recipe = recipe_of(tmp_path_factory.mktemp("averaged"))
    run_versions(recipe)
    return recipe


def test_which_checkpoints_with_which_weights_is_recorded(lineage):
    found, base = record(lineage, "averaged"), record(lineage, "base")
    assert found["averaged"] == {"4": 1 / 3, "6": 1 / 3, "8": 1 / 3}
    assert found["parents"] == [{"id": "base", "share": 1.0, "weights_hash": base["weights_hash"]}]
    assert (found["start"], found["steps"], found["tokens"], found["parent"]) == ("average", 0, 0, "base")
    assert found["lineage_tokens"] == base["tokens"]
    assert record(lineage, "running")["averaged"] == {"8": 1.0}


def test_the_last_checkpoint_alone_is_the_version_bit_for_bit(lineage):
    base, one = record(lineage, "base"), record(lineage, "one")
    assert one["weights_hash"] == base["weights_hash"] and one["heldout"] == base["heldout"]
    hashes = {record(lineage, name)["weights_hash"] for name in ("base", "averaged", "running")}
    assert len(hashes) == 3


def test_it_is_measured_told_and_built_upon(lineage):
    losses = {name: record(lineage, name)["heldout"]["a"] for name in VERSIONS}
    assert abs(losses["averaged"] - losses["base"]) < 1 and losses["averaged"] != losses["base"]
    origins = [entry["origin"] for entry in log(lineage)["versions"]]
    assert origins == [
        None,
        "average of the last 3 checkpoints of base (uniform)",
        "average of base at steps 8 (uniform)",
        "running average of base",
        None,
    ]
    found = record(lineage, "next")
    assert found["lineage_tokens"] == record(lineage, "base")["tokens"] + found["tokens"]
    plan = read_json(lineage.paths.version("next").plan / "plan.json")
    assert plan["sources"]["a"]["start"] == 8 * 8  # after the samples of `base`
    data = {name: lineage.paths.data / name for name in ("a", "b")}
    page = render_page(
        summarize(lineage, data) | {"data": {}}, "averaged"
    )  # this test's data was not cleaned
    assert "average of the last 3 checkpoints of base (uniform)" in page


def test_what_was_killed_begins_anew_with_the_same_bytes(lineage):
    paths, before = lineage.paths.version("averaged"), record(lineage, "averaged")
    verify(paths.directory)
    for path in (paths.directory / "_SUCCESS", paths.record, paths.export / "config.json"):
        path.unlink()
    outcome = start_ranks(paths.directory, 1)
    assert outcome.returncode == 0, outcome.stderr
    assert (
        is_finished(paths.directory) and record(lineage, "averaged")["weights_hash"] == before["weights_hash"]
    )


def test_another_choice_of_checkpoints_is_another_version(lineage):
    """`keep` does not decide what a version is, but it does which of its checkpoints are the last."""
    base = VERSIONS["base"] | {"keep": [2, 4]}
    with pytest.raises(PerdureError, match=r"averaged\.2: None -> 0\.333"):
        run_versions(recipe_of(lineage.directory, VERSIONS | {"base": base}), "averaged")


def test_a_checkpoint_that_is_gone_is_named(lineage):
    more = VERSIONS | {"more": average(steps=[3])}
    with pytest.raises(PerdureError, match="version more: base is finished and has no checkpoint of step 3"):
        run_versions(recipe_of(lineage.directory, more), "more")
