"""What `report.json` says of a made-up run, finished or not."""

import json

import pytest

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.evaluate.report.formats import loss_table
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.siblings import findings
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.evaluate.report.training import CURVE_POINTS
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.recipe import FP8
from tests.pipeline.evaluate.made_up import ALL


def test_numbers_of_a_finished_run(report):
    assert report["domains"] == ["prose", "clean", "code"]
    assert report["loss_matrix"] == [
        [9.0, 9.0, 9.0],
        [4.5, 4.25, 6.0],
        [4.75, 4.0, 6.25],
        [4.625, 4.375, 4.5],
        [5.5, 5.25, 4.375],
    ]
    changes = {version["id"]: version["change"] for version in report["versions"]}
    assert changes["base"] == {"prose": -4.5, "clean": -4.75, "code": -3.0}
    assert changes["update"] == {"prose": 0.125, "clean": 0.125, "code": -1.5}
    assert changes["control"] == {"prose": 1.0, "clean": 1.0, "code": -1.625}
    # `update` learned prose (through base) and code; nothing on its path trained on `clean`.
    assert report["acc"] == {
        "base": -4.5,
        "reference": -(4.75 + 4.0) / 2,
        "update": -(4.625 + 4.5) / 2,
        "control": -(5.5 + 4.375) / 2,
    }
    assert report["bwt"] == {"base": None, "reference": -0.25, "update": -0.125, "control": -1.0}
    assert report["fwt"] == dict.fromkeys(ALL)
    assert report["fwt_gem"] == {"base": None, "reference": 4.75, "update": 3.0, "control": 3.0}
    assert report["forgetting"]["update"] == {"mean": 0.125, "domains": {"prose": 0.125}}
    assert report["forgetting"]["base"] == {"mean": None, "domains": {}}


def test_report_holds_what_machines_read(report):
    update = report["versions"][2]
    assert {key: update[key] for key in ("id", "parent", "start", "status", "tokens", "steps")} == {
        "id": "update",
        "parent": "base",
        "start": "update",
        "status": "finished",
        "tokens": 196 * 4096,
        "steps": 196,
    }
    assert update["schedule"]["type"] == "cosine"
    assert update["selected_fraction"] == 0.6
    assert report["versions"][0]["selected_fraction"] == 1.0
    assert update["tokens_per_second"] == 7421.5
    assert [(member["key"], member["replay"], member["share"]) for member in update["mixture"]] == [
        ("code", False, 0.9375),
        ("replay/prose", True, 0.0625),  # 0.1 * 0.6 / (0.9 + 0.1 * 0.6)
    ]
    assert update["replay"] == {
        "share": 0.1,
        "share_of": "trained",
        "read": 0.0625,
        "trained": pytest.approx(0.1),
        "measured": pytest.approx(0.1, abs=1e-3),  # 256 of 2,560 tokens a step
    }
    assert report["versions"][0]["replay"] is None
    assert report["consumed"]["update"] == {
        "code": round(0.9375 * 196 * 4096),
        "replay/prose": round(0.0625 * 196 * 4096),
    }
    assert report["selection"] == {
        key: {"scored": 800000, "selected": 480000, "share": 0.6} for key in ("update", "control")
    }
    documents = report["data"]["code"]["documents"]
    assert documents["in"] == documents["out"] + sum(documents["dropped"].values())
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_what_follows_from_the_numbers_stands_in_the_report(report):
    base, _, update, _ = report["versions"]
    assert base["schedule_phases"] == [
        {"phase": phase, "after_step": step, "after_tokens": 4096 * step}
        for phase, step in (("warmup", 0), ("cooldown", 2), ("constant", 178), ("annealing", 252))
    ]
    code, prose = update["mixture"]
    assert (code["consumed"], prose["consumed_share"]) == (
        report["consumed"]["update"]["code"],
        pytest.approx(0.0625, abs=1e-6),
    )
    assert code["epochs"] == code["consumed"] / report["data"]["code"]["train"]["tokens"]
    assert update["mfu"] == pytest.approx(0.415) and update["ranks"] == 1
    assert update["command"] == "perdure run data_recipes/made-up.yaml --set seed=7"
    assert report["perplexity_matrix"][1][0] == pytest.approx(90.017, abs=1e-3)
    assert report["findings"] == findings(report)
    assert report["chosen"]["update"]["topics"]["code"]["cooking"]["share"] == 0.75
    passage = report["passages"]["update"]
    assert passage["excess"][0] is None and passage["selected_count"] == sum(passage["selected"])
    assert passage["excess"][1] == passage["loss"][1] - passage["reference_loss"][1]


def test_what_computed_a_version_stands_on_its_page_with_each_change(recipe, run):
    data = run(recipe, ALL)
    path = recipe.directory / "versions/update/version.json"
    first = {"step": 0, "attention": "flash2", "linears": "local", "fp8": None, "deterministic": True}
    fp8 = FP8(recipe="current").model_dump()
    then = first | {"step": 7, "linears": "transformer_engine", "fp8": fp8, "deterministic": False}
    kernels = [entry | {"versions": {"torch": "2.11.0"}} for entry in (first, then)]
    write_json(path, read_json(path) | {"kernels": kernels})
    report = summarize(recipe, data)
    assert [version["kernels"] for version in report["versions"]] == [[], [], kernels, []]
    page = " ".join(render_page(report).split())
    for step, linears, eight, only in (
        (1, "local", "none", "yes"),
        (8, "transformer_engine", "current, the first 1 and the last 1 layers in bf16", "no"),
    ):
        cells = f">{step}</td><td>flash2</td><td>{linears}</td><td>{eight}</td><td>{only}</td>"
        assert cells + " <td>torch 2.11.0</td>" in page
    assert "What computed each version" not in render_page(report, "base")


def test_a_version_without_new_data_has_no_share_of_it(recipe, run):
    data = run(recipe, ALL)
    path = recipe.directory / "versions/update/version.json"
    write_json(path, read_json(path) | {"selection_counts": {"scored": 0, "selected": 0}})
    report = summarize(recipe, data)
    assert report["versions"][2]["selected_fraction"] is None
    assert report["selection"]["update"] == {"scored": 0, "selected": 0, "share": None}
    render_page(report)


def test_curves_are_averages_of_stretches(recipe, run):
    data = run(recipe, ["base"])
    path = recipe.directory / "versions" / "base" / "metrics.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    steps = 2 * CURVE_POINTS
    lines = [
        line
        | {"step": i, "tokens": 10 * i, "loss": float(i), "source_loss": {"prose": 1.0} if i % 4 == 1 else {}}
        for i in range(1, steps + 1)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines) + '{"step": 999, "lo')
    curve = summarize(recipe, data)["curves"]["base"]
    assert curve["loss"] == [i + 0.5 for i in range(1, steps, 2)]
    assert curve["tokens"] == [10 * i for i in range(2, steps + 1, 2)]
    assert curve["source_loss"]["prose"] == [1.0, None] * (CURVE_POINTS // 2)


def test_a_pretrained_model_knows_what_no_descendant_brings_in(recipe, run):
    tree = recipe.model_dump() | {"model": {"type": "huggingface", "path": "x"}}
    pretrained = type(recipe).model_validate(tree)
    report = summarize(pretrained, run(pretrained, ALL))
    # `clean` is new in `reference`, beside the path base -> update; but `reference` descends from `base`, as `update` does.
    assert report["acc"]["update"] == -(4.625 + 4.375 + 4.5) / 3
    assert report["forgetting"]["base"] == {"mean": None, "domains": {}}
    # Without `reference` no version brings `clean` in.
    del tree["versions"]["reference"]
    for name in ("update", "control"):
        tree["versions"][name]["selection"] = None
    tree["out"] = recipe.directory.parent / "other"
    pretrained = type(recipe).model_validate(tree)
    report = summarize(pretrained, run(pretrained, list(tree["versions"])))
    assert report["acc"]["update"] == -(4.625 + 4.375 + 4.5) / 3
    assert report["forgetting"]["base"]["domains"] == {"clean": 0.0}
    assert report["bwt"]["update"] == ((4.5 - 4.625) + (9.0 - 4.375)) / 2


def test_a_run_with_one_finished_version_still_reports(recipe, run):
    data = run(recipe, ["base"])
    started = recipe.directory / "versions" / "update"
    started.mkdir()
    lines = (recipe.directory / "versions" / "base" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (started / "metrics.jsonl").write_text("".join(lines[:7]))
    report = summarize(recipe, data)
    assert [version["status"] for version in report["versions"]] == [
        "finished",
        "waiting",
        "started",
        "waiting",
    ]
    assert report["versions"][2]["steps"] == 7
    assert report["loss_matrix"][2:] == [[None] * 3] * 3
    assert list(report["acc"]) == ["base"]
    text = render_page(report)
    assert "Not trained yet" in text and "Unfinished: step 7 of 196" in text
    assert loss_table(report).splitlines()[8].split() == ["control", "base", "-", "-", "-"]


def test_what_was_to_be_forgotten_has_a_table_of_its_own(recipe, run):
    data = run(recipe, ["base", "reference"])
    assert summarize(recipe, data)["forgotten"] is None
    told = {
        "loss": 4.25,
        "heldout_loss": 4.5,
        "ks_p": 0.0312,
        "auc": 0.875,
        "priv_leak": -75.0,
        "utility": 0.4286,
    }
    unknown = dict.fromkeys(told) | {"loss": 4.5}
    versions = {"base": told, "reference": unknown, "gone": told}
    weights = {
        name: read_json(recipe.paths.version(name).record)["weights_hash"] for name in ("base", "reference")
    }
    record = {"exact": "reference", "documents": 1234, "data": data_hash(data["clean"]), "versions": versions}
    record["weights"] = weights | {"gone": "abc"}
    write_json(recipe.paths.forgotten, {"clean": record})
    named = recipe.model_copy(
        update={"evaluation": recipe.evaluation.model_copy(update={"exact": {"clean": "reference"}})}
    )
    report = summarize(named, data)
    assert list(report["forgotten"]["clean"]["versions"]) == ["base", "reference"]
    assert summarize(recipe, data)["forgotten"] is None  # another exact reference
    for other in (
        {"data": "other"},
        {"weights": {"base": weights["base"], "reference": "other"}},
        {"weights": {}},
    ):
        write_json(recipe.paths.forgotten, {"clean": record | other})
        assert summarize(named, data)["forgotten"] is None
    page = render_page(report)
    table = page.partition("What was to be forgotten</h2>")[2].partition("</section>")[0]
    assert (
        "clean, 1,234 documents" in table and 'reference <span class="muted">exact reference</span>' in table
    )
    cells = [cell.partition("<")[0] for cell in table.split('<td class="number">')[1:]]
    assert cells[:6] == ["4.250", "4.500", "0.0312", "0.875", "-75.0", "0.4286"] and cells[6:8] == [
        "4.500",
        "",
    ]


def test_an_empty_run_still_reports(recipe):
    report = summarize(recipe, dict.fromkeys(recipe.sources))
    assert report["loss_matrix"] == [[None] * 3] * 5
    assert report["acc"] == {} and report["curves"] == {} and report["initial"] is None
    assert report["data"] == dict.fromkeys(recipe.sources)
    assert "Not trained yet" in render_page(report) and "not prepared yet" in render_page(report)


def test_a_domain_without_heldout_documents_is_a_gap(recipe, run):
    data = run(recipe, ["base", "reference"])
    for path in recipe.directory.glob("versions/*/eval*.json"):
        evaluation = read_json(path)
        del evaluation["domains"]["clean"]
        write_json(path, evaluation)
    report = summarize(recipe, data)
    assert [row[:2] for row in report["loss_matrix"]][:3] == [[9.0, None], [4.5, None], [4.75, None]]
    assert report["acc"]["reference"] == -4.75
    assert "not measured" in render_page(report)


def test_without_documents_nothing_is_claimed(report):
    assert findings(report) == [
        "Replay (update; without it: control), nats per token: without an interval, so that nothing follows: prose "
        "(−0.875), code (+0.125)."
    ]  # `clean` was shown to neither
