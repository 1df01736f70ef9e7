"""Cut-offs: the newest text on a lineage, over all parents; unknown where text or a model has no date."""

import numpy as np
import pytest
from tiny import random_documents, tiny_llama, tiny_recipe, write_data

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.plan.cutoffs import (
    NO_TEXT,
    are_dated,
    cutoff_before,
    cutoff_of,
    cutoff_of_plan,
    cutoff_words,
    initial_cutoff,
    newest,
)
from perdure.pipeline.plan.plan import open_order
from perdure.pipeline.plan.planning import build_plan

STEP = 32 * 8
CONSTANT = {"type": "constant", "max_lr": 0.01, "warmup": 0}


def known(first, last=None):
    return {"earliest": first, "latest": last or first, "unknown": []}


def dated(directory, dates, name="a"):
    """A source with a document of 40 tokens for each date, read in the order given."""
    documents = [document[:40] for document in random_documents(1, len(dates), 300, 42)]
    return write_data(
        directory / name,
        [documents],
        documents[:2],
        300,
        label=lambda split, task, number: {"date": dates[number] if split == "train" else "2030"},
    )


def planned(out, data, steps, name="v1", versions=None, **changes):
    versions = versions or {
        "v1": {
            "start": {"type": "init"},
            "tokens": STEP * steps,
            "mixture": {"sources": {"a": {"order": "given"}}, "max_repetition": 100},
            "schedule": CONSTANT,
        }
    }
    recipe = tiny_recipe(out, versions=versions, **changes)
    directory = recipe.paths.version(name).plan
    return recipe, build_plan(directory, recipe, name, data, {}), directory


def test_the_newest_document_that_was_read_decides_and_not_the_newest_that_there_is(tmp_path):
    dates = [f"2024-{month:02d}" for month in range(1, 13) for _ in range(10)]
    data = {"a": dated(tmp_path / "data", dates)}
    _, plan, directory = planned(tmp_path / "out", data, 2)
    documents, ends = open_order(directory, "a")
    last = int(documents[np.searchsorted(ends, 2 * STEP - 1, "right")])
    found = cutoff_of_plan(plan, directory, data, plan.end)
    assert found["earliest"] == f"{dates[last]}-01" and found["earliest"] < "2024-12-01"
    assert cutoff_of_plan(plan, directory, data, 8)["latest"] < found["latest"]


def test_dates_of_different_precision_leave_a_range(tmp_path):
    data = {"a": dated(tmp_path / "data", ["2024-06", "2024", "2023-12-31"])}
    _, plan, directory = planned(tmp_path / "out", data, 2)
    found = cutoff_of_plan(plan, directory, data, plan.end)
    assert found == known("2024-06-01", "2024-12-31")
    assert cutoff_words(found) == "2024-06-01..2024-12-31"


def test_undated_documents_make_it_unknown_and_are_counted(tmp_path):
    data = {"a": dated(tmp_path / "data", ["2024-06", None, "2023", None])}
    _, plan, directory = planned(tmp_path / "out", data, 4)
    found = cutoff_of_plan(plan, directory, data, plan.end)
    assert found["unknown"] == ["2 of the 4 documents of a that were read have no date"]
    assert cutoff_words(found).startswith("unknown: 2 of the 4")


def test_a_source_without_dates_makes_it_unknown(tmp_path):
    data = {"a": write_data(tmp_path / "a", [random_documents(1, 5, 300)], random_documents(2, 2, 300), 300)}
    _, plan, directory = planned(tmp_path / "out", data, 1)
    assert cutoff_of_plan(plan, directory, data, plan.end)["unknown"] == [
        "a has no dates (sources.a.date_field)"
    ]


def test_the_latest_of_all_parents_counts():
    assert newest([known("2024-02-01"), known("2024-05-01"), NO_TEXT]) == known("2024-05-01")
    unknown = {"earliest": None, "latest": None, "unknown": ["no date"]}
    assert newest([known("2024-02-01"), unknown, unknown]) == unknown
    assert newest([NO_TEXT]) == NO_TEXT


def version(start, tokens=STEP, **changes):
    return {
        "start": start,
        "tokens": tokens,
        "mixture": {"sources": {"a": {"order": "given"}}, "max_repetition": 100},
        "schedule": CONSTANT,
    } | changes


VERSIONS = {
    "base": version({"type": "init"}),
    "early": version({"type": "update", "parent": "base"}),
    "late": version({"type": "update", "parent": "base"}),
    "merged": version({"type": "merge", "weights": {"early": 0.5, "late": 0.5}}, 0),
    "taught": version(
        {"type": "update", "parent": "early"}, anchor={"type": "kl", "on": "all", "model": "late"}
    ),
    "branch": version({"type": "branch", "parent": "long", "step": 1}),
    "long": version({"type": "init"}, 8 * STEP),
}
VERSIONS = {name: VERSIONS[name] for name in ("base", "early", "late", "merged", "taught", "long", "branch")}


@pytest.fixture
def lineage(tmp_path):
    """A recipe of several versions, of which some are finished, with the cut-offs that they recorded."""
    recipe = tiny_recipe(tmp_path / "out", versions=VERSIONS, sources__a__date_field="date")
    recorded = {"base": "2024-01-31", "early": "2024-02-29", "late": "2024-05-31"}
    for name, date in recorded.items():
        paths = recipe.paths.version(name)
        paths.directory.mkdir(parents=True)
        write_json(paths.record, {"cutoff": known(date)})
        finish(paths.directory, {})
    return recipe


def test_what_a_version_starts_from_is_as_recorded_of_all_that_it_is_made_of(lineage):
    assert cutoff_before(lineage, "base", {}) == NO_TEXT
    assert cutoff_before(lineage, "early", {}) == known("2024-01-31")
    assert cutoff_before(lineage, "merged", {}) == known("2024-05-31")
    assert cutoff_before(lineage, "taught", {}) == known("2024-05-31")


def test_a_parent_from_before_there_were_dates_makes_it_unknown(lineage):
    write_json(lineage.paths.version("late").record, {"id": "late"})
    (reason,) = cutoff_before(lineage, "merged", {})["unknown"]
    assert reason.startswith("late was made before its documents had dates")


def test_a_branch_has_read_what_its_parent_read_before_it_left(lineage, tmp_path):
    dates = [f"2024-{month:02d}-01" for month in range(1, 13) for _ in range(12)]
    data = {"a": dated(tmp_path / "data", dates)}
    directory = lineage.paths.version("long").plan
    plan = build_plan(directory, lineage, "long", data, {})
    before = cutoff_before(lineage, "branch", data)
    assert before == cutoff_of_plan(plan, directory, data, 8)
    assert before["latest"] < cutoff_of_plan(plan, directory, data, plan.end)["latest"]


def test_the_first_model_has_the_cutoff_that_is_declared(tmp_path):
    model = {"type": "huggingface", "path": str(tiny_llama(tmp_path / "llama", 300))}
    declared = tiny_recipe(tmp_path, model=model, evaluation__model_cutoff="2024-06")
    assert initial_cutoff(declared) == known("2024-06-01", "2024-06-30")
    assert are_dated(declared)
    silent = tiny_recipe(tmp_path, model=model)
    assert "evaluation.model_cutoff" in initial_cutoff(silent)["unknown"][0]
    assert not are_dated(silent)
    assert initial_cutoff(tiny_recipe(tmp_path)) == NO_TEXT


def test_what_is_declared_later_holds_of_finished_versions_and_what_follows_them(tmp_path):
    model = {"type": "huggingface", "path": str(tiny_llama(tmp_path / "llama", 300))}
    silent, later, earlier = (
        tiny_recipe(
            tmp_path / "out", model=model, versions=VERSIONS, sources__a__date_field="date", **declared
        )
        for declared in ({}, {"evaluation__model_cutoff": "2024-06"}, {"evaluation__model_cutoff": "2023"})
    )
    assert cutoff_before(silent, "base", {}) == NO_TEXT
    record = {"cutoff": newest([cutoff_before(silent, "base", {}), known("2024-01-31")])}
    paths = silent.paths.version("base")
    paths.directory.mkdir(parents=True)
    write_json(paths.record, record)
    assert "none is declared" in cutoff_of(silent, record)["unknown"][0]
    assert cutoff_of(later, record) == known("2024-06-01", "2024-06-30")
    assert cutoff_of(earlier, record) == known("2024-01-31")
    assert cutoff_before(later, "early", {}) == known("2024-01-31")  # a child's record takes the text alone
    assert cutoff_of(later, {}) is None
