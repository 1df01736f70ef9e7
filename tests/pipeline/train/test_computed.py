"""Versions that are merged from others, from their preparation to their report, and what is made from them."""

import shutil
import signal

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from pyarrow import parquet
from support import run_versions, start_ranks, stopped_at
from tiny import random_documents, tiny_recipe, write_data

from perdure.pipeline.cli.log import diff, log
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.evaluate.record import measured_on
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.model.huggingface import weights_reader
from perdure.pipeline.plan.history import source_ledger
from perdure.pipeline.plan.merged import fitted_words
from perdure.pipeline.recipe import Parallel
from perdure.pipeline.run.verify import verify
from perdure.pipeline.train.fitting import in_half
from perdure.pipeline.train.ranks import start
from tests.pipeline.train.small_lineage import CONSTANT, ONLY_A, STEP, version

pytestmark = pytest.mark.slow

MERGED = {"start": {"type": "merge", "weights": {"base": 0.2, "update": 0.8}}, "tokens": 0}
VERSIONS = {
    "base": version({"type": "init"}, 4, mixture=ONLY_A),
    "update": version(
        {"type": "update", "parent": "base"},
        3,
        mixture={
            "sources": {"b": {}},
            "replay": {"share": 0.25, "from_parents": True},
            "max_repetition": 100,
        },
    ),
    "merged": MERGED,
    "next": version(
        {"type": "update", "parent": "merged"},
        2,
        mixture={
            "sources": {"a": {}},
            "replay": {"share": 0.5, "from_parents": True},
            "max_repetition": 100,
        },
        schedule={"type": "decay"},
    ),
}


def recipe_of(out, **changes):
    return tiny_recipe(out, versions=VERSIONS | changes)


def directory(recipe, name):
    return recipe.paths.version(name).directory


def record(recipe, name):
    return read_json(recipe.paths.version(name).record)


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    recipe = recipe_of(tmp_path_factory.mktemp("merged"))
    return recipe, run_versions(recipe)


def test_the_weights_are_the_weighted_sum_of_the_parents(lineage):
    recipe, _ = lineage
    base, update, merged = (
        weights_reader(recipe.paths.version(name).export) for name in ("base", "update", "merged")
    )
    for name in ("model.embed_tokens.weight", "model.layers.3.mlp.down_proj.weight", "model.norm.weight"):
        expected = (0.2 * base(name).double() + 0.8 * update(name).double()).float()
        assert merged(name).dtype == base(name).dtype
        torch.testing.assert_close(merged(name).float(), expected, rtol=1e-7, atol=1e-7)


def test_it_is_recorded_with_all_parents_and_the_path_of_the_first(lineage):
    recipe, _ = lineage
    found, base, update = (record(recipe, name) for name in ("merged", "base", "update"))
    assert found["parents"] == [
        {"id": "base", "share": 0.2, "weights_hash": base["weights_hash"]},
        {"id": "update", "share": 0.8, "weights_hash": update["weights_hash"]},
    ]
    assert (found["start"], found["steps"], found["tokens"]) == ("merge", 0, 0)
    assert found["parent"] == "base" and found["lineage_tokens"] == base["tokens"]
    assert not (directory(recipe, "merged") / "plan").exists()
    assert not (directory(recipe, "merged") / "checkpoints").exists()


def test_it_is_measured_as_what_it_is(lineage):
    recipe, _ = lineage
    losses = {name: record(recipe, name)["heldout"] for name in ("base", "update", "merged")}
    evaluation = read_json(recipe.paths.version("merged").evaluation)["domains"]
    assert {domain: text["loss"] for domain, text in evaluation.items()} == losses["merged"]
    assert losses["merged"]["b"] < losses["base"]["b"]
    assert losses["merged"] not in (losses["base"], losses["update"])


def test_an_update_of_it_follows_the_first_parent(lineage):
    recipe, _ = lineage
    found = record(recipe, "next")
    assert found["lineage_tokens"] == record(recipe, "base")["tokens"] + found["tokens"]
    plan = read_json(recipe.paths.version("next").plan / "plan.json")
    assert set(plan["sources"]) == {"a", "replay/a"}  # not b, which `update` alone read
    assert plan["sources"]["a"]["start"] == 4 * 8  # after the samples of `base`
    assert found["schedule"]["max_lr"] == CONSTANT["max_lr"]  # the rate at which `base` ended
    ledger = source_ledger(recipe, "merged")
    assert ledger == source_ledger(recipe, "base")


def test_log_diff_and_report_say_what_it_is_made_of(lineage):
    recipe, _ = lineage
    entry = log(recipe)["versions"][2]
    assert (entry["origin"], entry["status"], entry["parent"]) == (
        "merge of base 0.2, update 0.8",
        "finished",
        "base",
    )
    assert entry["lineage_tokens"] == STEP * 4
    assert diff(recipe, "base", "merged")["results"]["a"]["difference"] is not None
    data = {name: recipe.paths.data / name for name in ("a", "b")}
    report = summarize(recipe, data)
    assert report["versions"][2]["origin"] == "merge of base 0.2, update 0.8"
    assert report["versions"][2]["mixture"] == []
    assert np.isfinite(report["loss_matrix"]).sum() == 5 * 2
    for shown in (None, "merged"):
        page = render_page(report | {"data": {}}, shown)  # this test's data was not cleaned
        assert "Computed without training: merge of base 0.2, update 0.8." in page


def test_nothing_is_damaged_and_nothing_made_again(lineage):
    recipe, _ = lineage
    verify(directory(recipe, "merged"))
    assert any("version merged: finished" in line for line in run_versions(recipe, "merged"))


def test_it_is_measured_again_on_other_text(lineage):
    recipe, _ = lineage
    other = recipe_of(recipe.directory)
    other = other.model_copy(update={"evaluation": other.evaluation.model_copy(update={"max_tokens": 200})})
    said = run_versions(other, "merged")
    assert any("measured again" in line for line in said)
    data = {name: recipe.paths.data / name for name in ("a", "b")}
    on = measured_on(other, data)
    assert on["max_tokens"] == 200


FITTED = {"type": "merge", "versions": ["base", "update"], "blocks": 2, "fitted": {"old": "a", "weight": 0.5}}


@pytest.mark.parametrize(
    ("name", "point"), [("merged", "computed:finish_computed:1"), ("searched", "fitting:half_losses:3")]
)
def test_what_was_killed_begins_anew_with_the_same_bytes(lineage, name, point):
    recipe, _ = lineage
    run_versions(recipe_of(recipe.directory, searched={"start": FITTED, "tokens": 0}), name)
    path, before = directory(recipe, name), record(recipe, name)
    (path / "_SUCCESS").unlink()
    (path / "version.json").unlink()
    assert stopped_at(path, 1, point, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not is_finished(path) and not (path / "version.json").exists()
    outcome = start_ranks(path, 1)
    assert outcome.returncode == 0, outcome.stderr
    after = record(recipe, name)
    assert is_finished(path) and after["weights_hash"] == before["weights_hash"]
    assert after.get("search") == before.get("search")


@pytest.mark.parametrize("layout", ["tensor", "pipeline", "data"])
def test_no_layout_changes_a_merge(lineage, layout):
    recipe, _ = lineage
    other = recipe_of(
        recipe.directory,
        **{f"{layout}_merged": MERGED, f"{layout}_fitted": {"start": FITTED, "tokens": 0}},
    )
    sizes = {f"{layout}_parallel": 2, "distributed_optimizer": layout == "data"}
    other = other.model_copy(update={"parallel": Parallel(**sizes)})
    run_versions(other, f"{layout}_merged", f"{layout}_fitted")
    one, two = record(recipe, "merged"), record(other, f"{layout}_merged")
    assert two["weights_hash"] == one["weights_hash"] and two["parallel"] != one["parallel"]
    assert two["heldout"] == pytest.approx(one["heldout"], rel=1e-6)
    run_versions(recipe_of(recipe.directory, one_rank={"start": FITTED, "tokens": 0}), "one_rank")
    one, two = record(recipe, "one_rank"), record(other, f"{layout}_fitted")
    assert two["weights_hash"] == one["weights_hash"]
    assert two["parents"] == one["parents"]


def test_parents_of_another_tokenizer_are_refused(lineage, tmp_path):
    recipe, _ = lineage
    shutil.copytree(recipe.directory / "versions", tmp_path / "versions")
    for number, name in enumerate(("a", "b")):
        documents = random_documents(number, 20, 300)
        write_data(tmp_path / "data" / name, [documents], documents[:3], 300, tokenizer_hash="other")
    shutil.rmtree(tmp_path / "versions" / "merged")
    with pytest.raises(PerdureError, match="base was trained with another tokenizer") as caught:
        run_versions(recipe_of(tmp_path), "merged")
    assert "weights are summed token by token" in str(caught.value)


def test_a_parent_that_is_not_finished_is_named(tmp_path):
    with pytest.raises(PerdureError, match="version base is needed, but not finished"):
        run_versions(recipe_of(tmp_path), "merged")


def test_shares_are_fitted_by_held_out_loss(lineage):
    recipe, _ = lineage
    data = {name: recipe.paths.data / name for name in ("a", "b")}
    fitted = recipe_of(recipe.directory, fitted={"start": FITTED, "tokens": 0})
    said = run_versions(fitted, "fitted")
    assert any("shares fitted by held-out loss" in line for line in said)
    found = record(recipe, "fitted")
    search = found["search"]
    assert (search["old"], search["new"]) == (["a"], ["b"])
    assert search["evaluations"] == len(search["candidates"]) >= 6
    best = min(search["candidates"], key=lambda candidate: candidate["objective"])
    assert (best["share"], best["parent_share"]) == (search["share"], search["parent_share"])
    assert found["parents"][0]["share"] == search["parent_share"]
    check_what_was_measured(recipe, search)
    # The shares found, what they were found from and the losses of both are told wherever the version is described.
    entry, losses = log(fitted)["versions"][4], search["losses"]
    told = entry["fitted"]
    alone = next(each for each in search["candidates"] if not each["share"] and not any(each["parent_share"]))
    assert told["before"] == {"old": alone["old"], "new": alone["new"], "weighted": alone["objective"]}
    assert told["after"] == {
        "old": losses["tuned"]["a"],
        "new": losses["tuned"]["b"],
        "weighted": best["objective"],
    }
    assert (told["reported"], told["versions"]) == (losses["reported"], ["base", "update"])
    words = fitted_words(told)
    assert f"of {search['evaluations']} candidates" in words and f"a {losses['reported']['a']:.4f}" in words
    assert f"weighted {alone['objective']:.4f} -> {best['objective']:.4f}" in words
    assert entry["origin"].startswith(
        "merge of base " + "/".join(f"{share:g}" for share in search["parent_share"])
    )
    assert log(fitted)["versions"][2]["fitted"] is None
    report = summarize(fitted, data)
    assert report["versions"][4]["fitted"] == told and report["versions"][2]["fitted"] is None
    page = render_page(report | {"data": {}})
    assert page.count("found by held-out loss") == 1 and f"{losses['reported']['b']:.3f}" in page


def check_what_was_measured(recipe, search):
    """Every document counts in one half, which was measured without the other; together they are about what all are."""
    found, table = (
        record(recipe, "fitted"),
        parquet.read_table(directory(recipe, "fitted") / "eval_documents.parquet"),
    )
    for domain in ("a", "b"):
        documents = table.filter(pc.equal(table["domain"], domain))
        halves = {half: in_half(half, documents) for half in ("tuned", "reported")}
        assert (
            (halves["tuned"] ^ halves["reported"]).all()
            and halves["tuned"].any()
            and halves["reported"].any()
        )
        tokens = documents["tokens"].to_numpy()
        mean = (
            sum(search["losses"][half][domain] * tokens[kept].sum() for half, kept in halves.items())
            / tokens.sum()
        )
        assert mean == pytest.approx(found["heldout"][domain], abs=0.1)  # other neighbours


def test_a_failed_merge_says_that_it_begins_anew(lineage, tmp_path):
    recipe, _ = lineage
    cut = shutil.copytree(directory(recipe, "merged"), tmp_path / "merged")
    (cut / "_SUCCESS").unlink()
    with (cut / "recipe.yaml").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(PerdureError, match=r"version merged: merging stopped .*again: it begins anew$"):
        start(cut, 1)
