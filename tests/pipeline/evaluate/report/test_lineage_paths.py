"""Paths through a tree of versions: what a branch that leaves before its parent's end is measured against."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_recipe

from perdure.pipeline.evaluate.documents import DOCUMENTS, write_tables
from perdure.pipeline.evaluate.probe_scores import ANSWERS
from perdure.pipeline.evaluate.report.board import write_board
from perdure.pipeline.evaluate.report.formats import loss_table
from perdure.pipeline.evaluate.report.ledger_lines import ledger_lines
from perdure.pipeline.evaluate.report.lineage_paths import path_metrics, paths
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.plan.recorded import recorded

ALL = ["base", "reference", "update", "control"]
STEP = 32 * 8
nan = math.nan


def paths_of(recipe):
    return paths(list(recipe.sources), recorded(recipe))


def version(start, steps, *sources, **mixture):
    mixture = {"sources": {source: {} for source in sources}, "max_repetition": 100} | mixture
    return {
        "start": start,
        "tokens": steps * STEP,
        "mixture": mixture,
        "schedule": {"type": "constant", "max_lr": 0.01},
    }


def update(parent):
    return {"type": "update", "parent": parent}


def branch(parent, step):
    return {"type": "branch", "parent": parent, "step": step}


INIT = {"type": "init"}


def found(recipe, rows, **starts):
    """The metrics of every version, from rows of losses; `starts` are the losses before a version's first step."""
    losses = np.array(rows)
    missing = np.full(losses.shape[1], nan)
    known = {name: np.array(starts.get(name, missing)) for name in recipe.versions}
    return path_metrics(paths_of(recipe), list(recipe.sources), losses, known)


def test_rows_of_a_path(tmp_path):
    versions = {
        "base": version(INIT, 10, "a"),
        "main": version(update("base"), 10, "a"),
        "early": version(branch("main", 4), 4, "a"),
        "late": version(branch("main", 10), 4, "a"),
        "next": version(update("early"), 4, "b"),
    }
    at = paths_of(tiny_recipe(tmp_path, versions=versions))
    assert {name: (path.rows, path.parent, path.left_at) for name, path in at.items()} == {
        "base": ([0, 1], 0, None),
        "main": ([0, 1, 2], 1, None),
        "early": ([0, 1, None, 3], None, 4),
        "late": ([0, 1, 2, 4], 2, None),
        "next": ([0, 1, None, 3, 5], 3, None),
    }
    assert at["next"].members == ["base", "main", "early", "next"] and at["next"].learned == [1, 4]


def test_what_a_left_ancestor_trained_on_counts(tmp_path):
    """A main path of `a`, which a branch of `b` leaves at step 4."""
    versions = {"main": version(INIT, 10, "a"), "off": version(branch("main", 4), 4, "b")}
    recipe = tiny_recipe(tmp_path, versions=versions)
    assert paths_of(recipe)["off"].learned == [1, 2]
    rows = [[9.0, 9.0], [3.0, 8.0], [5.5, 3.5]]
    blind = found(recipe, rows)
    assert blind["acc"]["off"] == -4.5
    assert math.isnan(blind["bwt"]["off"]) and math.isnan(blind["fwt_gem"]["off"])
    assert math.isnan(blind["forgetting"]["off"]["mean"]) and blind["forgetting"]["off"]["domains"] == {}
    seen = found(recipe, rows, off=[5.0, 8.5])
    assert seen["acc"]["off"] == -4.5
    assert seen["bwt"]["off"] == -0.5  # of 5.0, and not of the 3.0 that `main` came to later
    assert seen["fwt_gem"]["off"] == 9.0 - 8.5
    assert seen["forgetting"]["off"] == {"mean": 0.5, "domains": {"a": 0.5}}


def test_no_mean_over_the_domains_that_happen_to_be_measured(tmp_path):
    """`a` is measured where it was learned, `b` not: it was learned by a main path that was left on the way."""
    versions = {
        "base": version(INIT, 10, "a"),
        "main": version(update("base"), 10, "b"),
        "off": version(branch("main", 4), 4, "b"),
    }
    recipe = tiny_recipe(tmp_path, versions=versions)
    rows = [[9.0, 9.0], [3.0, 8.0], [4.0, 2.0], [3.25, 5.5]]
    blind = found(recipe, rows)
    assert math.isnan(blind["bwt"]["off"]) and math.isnan(blind["forgetting"]["off"]["mean"])
    assert blind["forgetting"]["off"]["domains"] == {"a": 0.25}
    seen = found(recipe, rows, off=[3.5, 5.0])
    assert seen["bwt"]["off"] == ((3.0 - 3.25) + (5.0 - 5.5)) / 2
    assert seen["forgetting"]["off"] == {"mean": (0.25 + 0.5) / 2, "domains": {"a": 0.25, "b": 0.5}}
    assert blind["bwt"]["main"] == seen["bwt"]["main"] == -1.0


def test_what_comes_after_a_branch_left_is_not_learned(tmp_path):
    main = version(INIT, 10, "a", switches=[{"at": 0.5, "sources": {"b": {}}}])
    versions = {"main": main}
    versions |= {f"at_{step}": version(branch("main", step), 4, "a") for step in (5, 6)}
    at = paths_of(tiny_recipe(tmp_path, versions=versions))
    assert at["main"].learned == [1, 1]
    assert at["at_5"].learned == [1, None] and at["at_6"].learned == [1, 1]


def test_what_a_pretrained_model_forgot_is_no_mean_with_what_later_versions_learn(tmp_path):
    """It knows `general`; each yearly slice is new in one version, and lower before that by mere transfer."""
    names = ("general", "y1", "y2", "y3")
    versions = {"v1": version(INIT, 4, "y1"), "v2": version(update("v1"), 4, "y2")}
    versions |= {"v3": version(update("v2"), 4, "y3")}
    recipe = tiny_recipe(
        tmp_path,
        sources={name: {"reader": {"type": "text", "path": "unused"}} for name in names},
        model={"type": "huggingface", "path": "somewhere/model"},
        versions=versions,
    )
    rows = [[2.0, 3.0, 3.0, 3.0], [2.4, 2.5, 2.6, 2.65], [2.5, 2.75, 2.0, 2.25], [2.5, 2.75, 2.25, 2.0]]
    metrics = found(recipe, rows)
    assert metrics["bwt"]["v1"] == pytest.approx(-0.4)
    assert metrics["forgetting"]["v1"]["mean"] == pytest.approx(0.4)
    assert list(metrics["forgetting"]["v1"]["domains"]) == ["general"]
    assert metrics["acc"]["v1"] == pytest.approx(-(2.4 + 2.5) / 2)
    # A version beside the path decides nothing on it.
    beside = tiny_recipe(
        tmp_path,
        sources={name: {"reader": {"type": "text", "path": "unused"}} for name in names},
        model={"type": "huggingface", "path": "somewhere/model"},
        versions=versions | {"joint": version(INIT, 4, "general", "y1", "y2", "y3")},
    )
    for key, by_version in found(beside, [*rows, [2.2, 2.6, 2.2, 2.2]]).items():
        assert str({name: by_version[name] for name in versions}) == str(metrics[key])  # some are NaN
    # On the path of the last all of them are learned, each by its own version.
    assert metrics["acc"]["v3"] == pytest.approx(-(2.5 + 2.75 + 2.25 + 2.0) / 4)
    assert metrics["bwt"]["v3"] == pytest.approx(-(0.5 + 0.25 + 0.25) / 3)


HELDOUT = {"prose": 4.5, "clean": 4.75, "code": 6.5}


@pytest.fixture
def early(recipe, run):
    """A made-up run whose `reference` leaves `base`, of 293 steps, at step 100; documents of prose and probes."""

    def made(measured: bool, step: int = 100):
        versions = recipe.model_dump()["versions"]
        versions["reference"]["start"] = branch("base", step)
        changed = type(recipe).model_validate(recipe.model_dump() | {"versions": versions})
        data = run(changed, ALL)
        directory = changed.directory / "versions"
        for name, nats in (("initial", 9.0), ("base", 4.5), ("reference", 4.75)):
            place = "base/eval_initial" if name == "initial" else f"{name}/eval"
            documents = {
                "domain": ["prose"] * 2, "tokens": [10, 30], "bytes": [20, 60], "topic": [None] * 2,
                "language": [None] * 2, "loss": [10 * nats, 30 * nats], "separator_loss": [0.0] * 2,
                "heldout_tokens": [10, 30], "hash": ["a", "b"],
            }  # fmt: skip
            write_tables(directory / f"{place}_documents.parquet", [pa.table(documents).cast(DOCUMENTS)])
            scores = [-1.0, -2.0] if name == "base" else [-2.0, -1.0]
            answer = {"file": "facts.jsonl", "id": "1", "kind": "invariant", "answer": 0, "scores": scores}
            write_tables(directory / f"{place}_probes.parquet", [pa.Table.from_pylist([answer], ANSWERS)])
        lines = [
            json.loads(line) for line in (directory / "reference/metrics.jsonl").read_text().splitlines()
        ]
        lines[0]["heldout_before"] = HELDOUT if measured else None
        (directory / "reference/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return summarize(changed, data)

    return made


def test_a_branch_is_not_compared_with_what_its_parent_became_later(early):
    report = early(measured=False)
    version = report["versions"][1]
    assert (version["left_at_step"], version["change"]) == (100, dict.fromkeys(HELDOUT))
    assert report["intervals"]["change"]["reference"] == {"prose": None}
    assert report["intervals"]["macro_change"]["reference"] is None
    assert report["intervals"]["forgetting"]["reference"] == {}
    # Against the initial model everything is as it was.
    assert report["from_initial"]["reference"] == {"prose": -4.25, "clean": -5.0, "code": -2.75}
    assert report["intervals"]["from_initial"]["reference"]["prose"] == pytest.approx([-4.25, -4.25])
    assert (report["acc"]["reference"], report["bwt"]["reference"]) == (-(4.75 + 4.0) / 2, None)
    assert report["forgetting"]["reference"] == {"mean": None, "domains": {}}
    assert list(report["probes"]["change"]["reference"]) == ["initial"]
    assert list(report["probes"]["fuar"]["reference"]) == ["initial"]
    assert "reference: facts.jsonl: invariant 0 of 1, guessing gives 50%" in ledger_lines(report)
    assert not [line for line in ledger_lines(report) if line.startswith("reference: on ")]
    page = render_page(report, "reference")
    assert "From base at step 100" in page
    assert "It left base before its end; what it started from was not measured, so that there are no" in page
    line, _ = (line for line in loss_table(report).splitlines() if line.startswith("reference "))
    assert line.split() == ["reference", "base", "at", "step", "100", "4.750", "4.000", "6.250"]


def test_a_branch_is_compared_with_its_own_measurement_before_its_first_step(early, tmp_path):
    report = early(measured=True)
    version = report["versions"][1]
    assert version["change"] == {"prose": 0.25, "clean": -0.75, "code": -0.25}
    # Documents are kept apart at the end only, so that there is nothing to pair with.
    assert report["intervals"]["change"]["reference"] == {"prose": None}
    assert report["intervals"]["forgetting"]["reference"] == {"prose": None}
    assert report["bwt"]["reference"] == 4.5 - 4.75
    assert report["forgetting"]["reference"] == {"mean": 0.25, "domains": {"prose": 0.25}}
    assert "before its end; changes are against what it was measured at before" in render_page(report)

    write_board(report, tmp_path / "tb")
    board = EventAccumulator(str(tmp_path / "tb" / "reference"))
    board.Reload()
    events = [(event.step, event.value) for event in board.Scalars("heldout_loss/prose")]
    start = version["lineage_tokens"] - version["tokens"]
    assert events == [(0, 9.0), (start, 4.5), (version["lineage_tokens"], 4.75)]


def test_a_branch_from_its_parents_end_is_compared_with_that(early):
    report = early(measured=True, step=293)
    version = report["versions"][1]
    assert (version["left_at_step"], version["change"]["prose"]) == (None, 0.25)
    assert version["change"]["clean"] == 4.0 - 4.25
    assert report["intervals"]["change"]["reference"]["prose"] == pytest.approx([0.25, 0.25])
    assert report["probes"]["fuar"]["reference"]["parent"]["lost"] == 1.0
    assert "before its end" not in render_page(report)
