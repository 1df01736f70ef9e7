"""The ledger on made-up documents whose sums can be checked by hand, and on runs from before there was one."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.evaluate.documents import DOCUMENTS, write_tables
from perdure.pipeline.evaluate.report.ledger import Ancestry, Documents, draws, intervals
from perdure.pipeline.evaluate.report.ledger_lines import ledger_lines
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.run.sweep.gather import versions_measured

ALL = ["base", "reference", "update", "control"]
NATS = {"initial": 9.0, "base": 4.5, "reference": 4.75, "update": 4.625, "control": 5.5}


def table(domain, losses, tokens, topics=None, languages=None):
    """Documents with a mean loss each."""
    return pa.table(
        {
            "domain": [domain] * len(tokens),
            "tokens": tokens,
            "bytes": [2 * count for count in tokens],
            "topic": pa.array(topics or [None] * len(tokens), pa.string()),
            "language": pa.array(languages or [None] * len(tokens), pa.string()),
            "loss": np.multiply(losses, tokens),
            "separator_loss": np.zeros(len(tokens)),
            "heldout_tokens": tokens,
            "hash": pa.array([None] * len(tokens), pa.string()),
        }
    ).cast(DOCUMENTS)


TOKENS = [10, 30, 20, 40]
SPREAD = np.array([0.5, -0.25, 0.25, -0.0625])
"""Of the documents' losses around the model's; their sum over tokens is 0."""


def with_documents(recipe, run, names=ALL, shift=0.0):
    """A made-up run with the documents of its sources: all models find the same ones hard, `shift` times more each."""
    data = run(recipe, ALL)
    for number, (name, nats) in enumerate(NATS.items()):
        file = "base/eval_initial_documents" if name == "initial" else f"{name}/eval_documents"
        if name in (*names, "initial"):
            losses = nats + (1 + shift * number) * SPREAD
            topics = ["law", "law", "art", None]
            write_tables(
                recipe.directory / f"versions/{file}.parquet", [table("prose", losses, TOKENS, topics)]
            )
    return summarize(recipe, data)


def test_macro_averages_and_changes_against_the_initial_model(report):
    assert report["macro"]["domains"] == ["prose", "clean", "code"]
    assert report["macro"]["loss"] == pytest.approx(
        [9.0, (4.5 + 4.25 + 6.0) / 3, 5.0, (4.625 + 4.375 + 4.5) / 3, (5.5 + 5.25 + 4.375) / 3]
    )
    assert report["macro"]["bits_per_byte"][0] == pytest.approx(9.0 / 2.77)
    assert report["bits_per_byte_matrix"][1] == [loss / 2.77 for loss in report["loss_matrix"][1]]
    assert report["from_initial"]["control"] == {"prose": -3.5, "clean": -3.75, "code": -4.625}


def test_a_run_without_documents_has_no_intervals_and_says_so(report):
    found = report["intervals"]
    assert found["missing"] == {"initial": True, "versions": ALL}
    assert found["loss"] == [{}] * 5 and found["macro"] == [None] * 5
    assert report["labels"] == {"topic": {}, "language": {}}
    assert report["stability_gap"] == {} and report["probes"] is None and report["harness"] is None
    render_page(report)


def test_intervals_of_what_every_document_shares_are_exact(recipe, run):
    report = with_documents(recipe, run)
    found = report["intervals"]
    assert found["missing"] == {"initial": False, "versions": []}
    for row, nats in enumerate(NATS.values()):
        low, high = found["loss"][row]["prose"]
        assert nats - 0.5 < low < nats < high < nats + 0.5
    # Documents are equally hard for all models, so that every pair differs by the same in every resample.
    assert found["change"]["update"]["prose"] == pytest.approx([0.125, 0.125])
    assert found["from_initial"]["update"]["prose"] == pytest.approx([-4.375, -4.375])
    assert found["forgetting"]["update"] == {"prose": pytest.approx([0.125, 0.125])}
    assert found["change"]["base"]["prose"] == pytest.approx([-4.5, -4.5])
    # Two of three sources have no documents.
    assert found["macro"] == [None] * 5 and found["macro_change"]["update"] is None


def test_a_change_that_the_documents_decide_has_an_interval_around_it(recipe, run):
    low, high = with_documents(recipe, run, shift=1.0)["intervals"]["change"]["update"]["prose"]
    assert low < 0.125 < high and high - low > 0.1


def test_domains_are_drawn_apart():
    """Two domains alike in everything: their mean has an interval narrower by the root of two, and not as wide as each."""
    generator = np.random.default_rng(0)
    tokens = np.full(300, 10.0)
    losses = 10 * (3 + generator.normal(0, 1, 300))[None]
    own = Documents(tokens, 4 * tokens, {}, np.concatenate([losses, losses]), np.zeros(300, np.int64))
    documents = {"a": own, "b": own}
    found = intervals(documents, draws(documents, 3), {"v": Ancestry(1, 0, {})}, ["a", "b"], 2, seed=3)

    def width(bounds):
        return bounds[1] - bounds[0]

    assert width(found["macro"][1]) / width(found["loss"][1]["a"]) == pytest.approx(0.5**0.5, abs=0.08)
    assert found["macro_change"]["v"] == pytest.approx([0, 0])  # but models are measured on the same draws
    bits = 1 / (math.log(2) * 4)
    assert found["macro_bits_per_byte"][1] == pytest.approx([bits * bound for bound in found["macro"][1]])


def test_losses_by_topic(recipe, run):
    found = with_documents(recipe, run)["labels"]["topic"]["prose"]
    assert list(found) == ["art", "law"]
    law = found["law"]
    assert (law["documents"], law["tokens"], law["bytes"]) == (2, 40, 80)
    assert law["loss"] == pytest.approx([nats + (0.5 * 10 - 0.25 * 30) / 40 for nats in NATS.values()])
    assert law["bits_per_byte"] == pytest.approx([loss / math.log(2) / 2 for loss in law["loss"]])
    low, high = law["intervals"][1]
    assert 4.25 <= low < law["loss"][1] < high <= 5.0
    assert found["art"]["intervals"] == [None] * 5  # a single document


def test_versions_without_documents_are_named_and_the_others_have_intervals(recipe, run):
    found = with_documents(recipe, run, names=["base", "update"])["intervals"]
    assert found["missing"] == {"initial": False, "versions": ["reference", "control"]}
    assert found["change"]["update"]["prose"] and found["change"]["control"]["prose"] is None


def test_versions_measured_on_other_documents_are_not_paired(recipe, run):
    with_documents(recipe, run)
    other = table("prose", [4.5, 4.5], [10, 20])
    write_tables(recipe.directory / "versions/base/eval_documents.parquet", [other])
    data = {source: next(recipe.directory.glob(f"data/{source}@*")) for source in recipe.sources}
    found = summarize(recipe, data)["intervals"]
    assert found["loss"][1]["prose"] is None and found["change"]["update"]["prose"] is None
    assert found["from_initial"]["update"]["prose"] is not None


def test_the_same_files_give_the_same_bytes(recipe, run):
    first = with_documents(recipe, run, shift=1.0)
    data = {source: next(recipe.directory.glob(f"data/{source}@*")) for source in recipe.sources}
    assert json.dumps(first) == json.dumps(summarize(recipe, data))


def test_the_stability_gap_of_a_version(recipe, run):
    data = run(recipe, ALL)
    directory = recipe.directory / "versions/update"
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    curve = {1: 4.5, 51: 5.0, 101: 4.75, 151: 4.5}
    for line in lines:
        if loss := curve.get(line["step"]):
            line["heldout_before"] = {"prose": loss, "clean": 4.0, "code": 6.0 - line["step"] / 100}
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(
        directory / "version.json",
        read_json(directory / "version.json") | {"heldout": {"prose": 4.625, "clean": 4.0, "code": 4.5}},
    )
    report = summarize(recipe, data)
    assert list(report["stability_gap"]) == ["update"]
    gap = report["stability_gap"]["update"]
    assert gap["steps"] == [0, 50, 100, 150, 196]
    assert gap["tokens"] == [4096 * step for step in gap["steps"]]
    assert gap["loss"]["prose"] == [4.5, 5.0, 4.75, 4.5, 4.625]
    assert gap["domains"]["prose"] == {
        "start": 4.5,
        "worst": 5.0,
        "worst_tokens": 50 * 4096,
        "depth": 0.5,
        "recovery_tokens": 150 * 4096,
    }
    assert gap["domains"]["code"]["depth"] == 0.0 and gap["domains"]["code"]["recovery_tokens"] == 0
    assert gap["macro"][0] == pytest.approx((4.5 + 4.0 + 5.99) / 3)
    # Of the three, `update` knew prose only.
    assert (gap["min_acc"], gap["min_acc_unmeasured"]) == (-5.0, [])
    page = render_page(report)
    assert "min-ACC \N{MINUS SIGN}5.000: minus the loss" in page


def test_a_loss_that_was_not_finite_on_the_way_is_a_break_in_the_curve(recipe, run):
    """The guard rolled back from a NaN, which is null in `metrics.jsonl`; `code` never had a finite loss."""
    data = run(recipe, ALL)
    path = recipe.directory / "versions/update/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for step, prose in ((1, 4.5), (51, None), (101, 4.75), (151, 4.25)):
        lines[step - 1]["heldout_before"] = {"prose": prose, "clean": 4.0, "code": None}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = summarize(recipe, data)
    gap = report["stability_gap"]["update"]
    assert gap["loss"]["prose"] == [4.5, None, 4.75, 4.25] and gap["loss"]["code"] == [None] * 4
    assert gap["macro"] == [None] * 4
    assert gap["domains"]["prose"] == {
        "start": 4.5,
        "worst": 4.75,
        "worst_tokens": 100 * 4096,
        "depth": 0.25,
        "recovery_tokens": 150 * 4096,
    }
    assert gap["domains"]["code"] == dict.fromkeys(gap["domains"]["prose"])
    assert gap["min_acc"] == -4.75
    page, words = render_page(report), ledger_lines(report)
    assert '<th scope="row">code</th><td colspan="4" class="muted">not measured at the start</td>' in page
    assert [line for line in words if line.startswith("update: while it trained")] == [
        "update: while it trained, the loss on prose rose by 0.250 nats per token, most after 410k tokens, and is back after "
        "614k."
    ]
    assert versions_measured(report)["update"]["stability_gap"] == {
        "macro": {"depth": None, "recovery_tokens": None},
        "domains": {"prose": {"depth": 0.25, "recovery_tokens": 150 * 4096}},
    }


def test_findings_in_words(recipe, run):
    """Lines that a run has something to say for, and no others."""
    assert ledger_lines(with_documents(recipe, run)) == []
    wide = with_documents(make(recipe, "wide"), run, names=["base", "update"], shift=1.0)
    wide["stability_gap"] = {
        "update": {
            "domains": {
                "prose": {"depth": 0.5, "worst_tokens": 2000, "recovery_tokens": None},
                "code": {"depth": 0.25, "worst_tokens": 2000, "recovery_tokens": 41_000},
                "clean": {"depth": 0.0, "worst_tokens": 0, "recovery_tokens": 0},
            }
        }
    }
    kinds = {"invariant": {"items": 4, "correct": 3}, "new": {"items": 2, "correct": 1}}
    change = {"change": -0.25, "gained": 0, "lost": 1}
    wide["probes"] = {
        "scores": [None, None, None, {"facts.jsonl": kinds}, None],
        "change": {"update": {"parent": {"facts.jsonl": {"invariant": change}}}},
        "fuar": {"update": {"parent": {"value": None, "words": "no gain"}}},
    }
    wide["contamination"] = {"probes": {"facts.jsonl": {"items": 6, "leaked": 1}}}
    assert ledger_lines(wide) == [
        "update: on prose the change may be chance: its 95% interval over documents holds 0.",
        "update: while it trained, the loss on prose rose by 0.500 nats per token, most after 2k tokens, and is not back.",
        "update: while it trained, the loss on code rose by 0.250 nats per token, most after 2k tokens, and is back after 41k.",
        "update: facts.jsonl: invariant 3 of 4 (-25.0 points: 0 gained, 1 lost), new 1 of 2; 1 of 6 items leaked",
        "update: no gain, so no FUAR",
        "No intervals for reference, control: measured before documents were kept apart. `perdure eval` measures "
        "finished versions again.",
    ]


def make(recipe, name):
    return recipe.model_copy(update={"out": recipe.directory / name})
