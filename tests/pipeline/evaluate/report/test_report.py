"""The report of a made-up run: exact numbers, words, and half-finished runs."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perdure.pipeline.core.console import tokens_words
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.evaluate.record import measured_on, record_data
from perdure.pipeline.evaluate.report.board import write_board
from perdure.pipeline.evaluate.report.formats import format_layout, loss_table
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.report import write_report
from perdure.pipeline.evaluate.report.siblings import findings, pairs
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.evaluate.report.training import CURVE_POINTS
from perdure.pipeline.recipe import Recipe

ALL = ["base", "reference", "update", "control"]


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


def test_a_version_without_new_data_has_no_share_of_it(recipe, run):
    data = run(recipe, ALL)
    path = recipe.directory / "versions/update/version.json"
    write_json(path, read_json(path) | {"selection_counts": {"scored": 0, "selected": 0}})
    report = summarize(recipe, data)
    assert report["versions"][2]["selected_fraction"] is None
    assert report["selection"]["update"] == {"scored": 0, "selected": 0, "share": None}
    render_page(report)


def test_a_page_for_every_version(report):
    text = render_page(report, "update")
    assert "made-up: update" in text and "<h3>update</h3>" in text
    assert "<h3>control</h3>" not in text and "control" not in text.partition("<pre class")[0]
    assert text.count('<th scope="row">base</th>') == 2  # on its path: in the matrix and its metrics


def test_the_report_in_tensorboard(report, tmp_path):
    for _ in range(2):  # what was there is replaced
        write_board(report, tmp_path / "tb")
    assert sorted(path.name for path in (tmp_path / "tb").iterdir()) == sorted(ALL)
    board = EventAccumulator(str(tmp_path / "tb" / "update"))
    board.Reload()
    events = [(event.step, event.value) for event in board.Scalars("heldout_loss/prose")]
    tokens = [report["versions"][number]["lineage_tokens"] for number in (0, 2)]
    assert events == [(0, 9.0), (tokens[0], 4.5), (tokens[1], 4.625)]
    assert [event.value for event in board.Scalars("ledger/forgetting")] == [0.125]
    assert [event.value for event in board.Scalars("ledger/acc")] == [-4.5, -4.5625]
    (text,) = board.Tensors("loss_matrix/text_summary")
    table = text.tensor_proto.string_val[0].decode().splitlines()
    assert table[0] == "| version | prose | clean | code |"
    assert table[5] == "| update | 4.625 (+0.125) | 4.375 (+0.125) | 4.500 (−1.500) |"


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


def siblings_in(tree: dict) -> list[tuple]:
    recipe = Recipe.model_validate(tree)
    return [
        (pair.by, pair.version, pair.against, pair.plain)
        for pair in pairs(dict.fromkeys(recipe.versions, recipe))
    ]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("tokens",), 799_000),
        (("start", "moments"), "keep"),
        (("start",), {"type": "branch", "parent": "base", "step": 5}),
        (("selection", "k"), 0.5),
        (("schedule", "max_lr"), 1e-3),
        (("weight_decay",), 0.2),
        (("mixture", "sources"), {"code": {}, "clean": {}}),
        (("mixture", "switches"), [{"at": 0.5, "sources": {"clean": {}}}]),
        (("mixture", "reweight"), {"interval": 1000, "alpha": 0.1}),
        (("mixture", "domain_order"), "given"),
        (("mixture", "max_repetition"), 2.0),
        (("mixture", "perplexity_model"), None),
    ],
)
def test_versions_that_differ_in_more_than_replay_are_not_compared(report, place, value):
    tree = yaml.safe_load(report["recipe"])
    node = tree["versions"]["control"]
    for key in place[:-1]:
        node = node[key]
    assert node[place[-1]] != value
    node[place[-1]] = value
    assert siblings_in(tree) == []


def test_shares_and_order_of_new_sources_are_more_than_replay(report):
    tree = yaml.safe_load(report["recipe"])

    def findings(domain_order, update, control):
        for name, sources in (("update", update), ("control", control)):
            mixture = tree["versions"][name]["mixture"]
            mixture["domain_order"] = domain_order
            mixture["sources"] = {source: {"weight": weight} for source, weight in sources.items()}
        return siblings_in(tree)

    both = {"code": 1.0, "clean": 3.0}
    assert findings(None, both, both) != [] and findings("given", both, both) != []
    assert findings(None, both, {"clean": 3.0, "code": 1.0}) != []
    assert findings("given", both, {"clean": 3.0, "code": 1.0}) == []
    assert findings(None, both, {"code": 1.0, "clean": 1.0}) == []


def test_checkpoints_that_are_kept_decide_nothing(report):
    tree = yaml.safe_load(report["recipe"])
    tree["versions"]["control"]["keep"] = [5]
    assert siblings_in(tree) == [("replay", "update", "control", True)]


def test_console_table(report):
    lines = loss_table(report).splitlines()
    assert lines[2].split() == ["version", "from", "prose", "clean", "code"]
    assert lines[4].split() == ["initial", "model", "9.000", "9.000", "9.000"]
    assert lines[7].split() == [
        "update",
        "base",
        "4.625",
        "(+0.125)",
        "4.375",
        "(+0.125)",
        "4.500",
        "(-1.500)",
    ]
    assert max(map(len, lines)) <= 100


def test_bits_per_byte_come_first_where_domains_tokens_hold_unlike_amounts_of_text(recipe, run):
    """Means over domains are of bits per byte: 9 nats of 4 bytes and of 2 are 3.25 and 6.49 bits a byte."""
    data = run(recipe, ["base", "update"])
    for path in recipe.directory.glob("versions/*/eval*.json"):
        found = read_json(path)
        sample = {"heldout_documents": 300, "heldout_tokens": 90_000, "cut_documents": 2}
        found["domains"]["code"] |= {
            "bytes": 60_000,
            "bits_per_byte": found["domains"]["code"]["loss"] / 1.386,
        } | sample
        write_json(path, found)
    report = summarize(recipe, data)
    assert report["unit"] == "bits_per_byte" and report["bytes_per_token"] == {
        "prose": 4,
        "clean": 4,
        "code": 2,
    }
    assert report["heldout"]["code"] == {"documents": 101, "tokens": 30_000, "bytes": 60_000} | sample
    bits = [loss / math.log(2) / size for loss, size in zip(report["loss_matrix"][3], (4, 4, 2))]
    assert report["in_bits_per_byte"]["acc"]["update"] == pytest.approx(-(bits[0] + bits[2]) / 2)
    table = loss_table(report)
    assert table.startswith("Held-out loss, bits per byte") and "Held-out loss, nats per token" in table
    assert table.splitlines()[2].split()[-1] == "mean"
    line = next(line for line in table.splitlines() if line.startswith("update"))
    change = report["in_bits_per_byte"]["change"]["update"]
    assert change == {
        "prose": pytest.approx(0.125 / math.log(2) / 4),
        "clean": pytest.approx(0.125 / math.log(2) / 4),
        "code": pytest.approx(-1.5 / math.log(2) / 2),
    }
    shown = report["bits_per_byte_matrix"][3]
    assert line.split()[2:4] == [f"{shown[0]:.3f}", "(+0.045)"]
    assert line.split()[6:8] == [f"{shown[2]:.3f}", "(-1.082)"]
    assert table.splitlines()[-1] == "  code 101 of 300 documents, 30k of 90k tokens, 2 in pieces"
    assert "  prose 101 documents, 30k tokens" in table


def test_console_table_of_many_domains():
    domains = [f"domain-{i}" for i in range(7)]
    wide = {
        "domains": domains,
        "loss_matrix": [[float(i) for i in range(7)], [2.0 * i for i in range(7)]],
        "versions": [{"id": "base", "parent": None, "change": {f"domain-{i}": float(i) for i in range(7)}}],
        "bits_per_byte_matrix": [[i / 2 for i in range(6)] + [None], [float(i) for i in range(6)] + [None]],
        "in_bits_per_byte": {"change": {"base": {name: 0.5 * i for i, name in enumerate(domains[:6])}}},
        "unit": "nats_per_token",
        "macro": {"domains": domains[:6], "bits_per_byte": [0.9, 1.8]},
        "heldout": {},
    }
    _, first, second, bits, *_, last = loss_table(wide).split("\n\n")
    assert bits.startswith("Held-out loss, bits per byte")
    assert last.splitlines()[3].split() == ["base", "initial", "model", "5.000", "(+2.500)", "-", "1.800"]
    assert first.splitlines()[0].split()[2:] == domains[:5]
    assert second.splitlines()[0].split()[2:] == domains[5:]
    assert second.splitlines()[3].split() == [
        "base",
        "initial",
        "model",
        "10.000",
        "(+5.000)",
        "12.000",
        "(+6.000)",
    ]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (999_999, "1M"),
        (1_250_000, "1.25M"),
        (3 * 10**9, "3B"),
    ],
)
def test_token_counts_in_words(count, words):
    assert tokens_words(count) == words


def offered(recipe, data) -> list[str]:
    said = []
    record_data(recipe, data)
    write_report(recipe, said.append, Path("my.yaml"))
    return said[-1].splitlines()[2:]


def test_the_version_offered_for_export_is_the_newest_that_is_no_control(recipe, run):
    data = run(recipe, ALL)  # `control`, the last one, has the lowest loss on code
    there = f"  perdure export {recipe.directory}"
    assert offered(recipe, data) == [
        f"{there} update --to made-up-update  "
        "# the newest version but for control (without replay), as a Hugging Face model",
        f"  tensorboard --logdir {recipe.directory}  # look at every step",
        "  perdure recipe new my-recipe.yaml  # begin a recipe of your own",
    ]


def test_the_newest_version_is_offered_though_an_older_one_has_lower_losses(recipe, run):
    data = run(recipe, ["base", "reference"])  # macro-averages: 4.92 and 5.0
    assert offered(recipe, data)[0] == (
        f"  perdure export {recipe.directory} reference --to made-up-reference  "
        "# the newest version, as a Hugging Face model"
    )


def test_a_run_without_versions_offers_to_make_them(recipe):
    assert offered(recipe, {}) == ["  perdure run my.yaml  # no version is finished yet: this makes them"]


@pytest.mark.slow
def test_whole_report_over_real_data(recipe, tmp_path, run):
    texts = tmp_path / "texts"
    texts.mkdir()
    tree = recipe.model_dump(mode="json", exclude={"out"}) | {
        "tokenizer": {"type": "train", "vocab_size": 320, "sources": ["prose", "code"]}
    }
    for source, entry in tree["sources"].items():
        path = texts / f"{source}.jsonl"
        lines = [json.dumps({"text": f"{source} {i} {hash_of([source, i])}"}) for i in range(60)]
        path.write_text("\n".join([*lines, lines[0], ""]))
        entry["reader"]["path"] = str(path)
        entry["heldout_fraction"] = 0.3
    recipe = Recipe.model_validate(tree | {"out": tmp_path / "out"})
    directories = run_data(recipe, [].append)
    before = write_report(recipe, [].append)
    assert before["unmeasured"] == []
    assert before["data"]["code"]["documents"] == {"in": 61, "dropped": {"exact_duplicate": 1}, "out": 60}

    run(recipe, ALL)  # measured on other text
    record_data(recipe, directories)
    shutil.rmtree(texts)  # the raw text may be gone by now
    said = []
    report = write_report(recipe, said.append)
    assert report["unmeasured"] == ALL and report["loss_matrix"] == [[None] * 3] * 5
    (told,) = (line for line in said if "not measured on this recipe's held-out text" in line)
    assert told.startswith("No losses of base, reference, update, control: ")
    for path in recipe.directory.glob("versions/*/eval*.json"):
        write_json(path, read_json(path) | {"measured": measured_on(recipe, directories)})
    said = []
    report = write_report(recipe, said.append)
    assert report["unmeasured"] == [] and report["loss_matrix"][4] == [5.5, 5.25, 4.375]
    assert report["data"] == before["data"]
    assert read_json(recipe.directory / "report.json") == report
    assert (recipe.directory / "report" / "index.html").read_text() == render_page(report)
    assert said[0] == loss_table(report)
    assert f"perdure export {recipe.directory} update --to " in said[-1]

    lineage = json.loads((recipe.directory / "lineage.json").read_text())
    assert [(entry["id"], entry["parent"], entry["start"]) for entry in lineage["versions"]] == [
        ("base", None, "init"),
        ("reference", "base", "update"),
        ("update", "base", "update"),
        ("control", "base", "update"),
    ]
    update = lineage["versions"][2]
    assert update["weights_hash"] == f"{2:064x}" and update["data"]["code"] == "code-hash"
    assert update["lineage_tokens"] == 1_200_128 + update["tokens"]
    assert update["evaluation"]["code"]["loss"] == 4.5 and lineage["initial"]["code"]["loss"] == 9.0


def test_layout_in_words():
    parallel = {
        "tensor_parallel": 2,
        "pipeline_parallel": 1,
        "data_parallel": 4,
        "sequence_parallel": True,
        "distributed_optimizer": True,
    }
    assert format_layout(parallel) == "tensor 2, data 4, sequence parallel, distributed optimizer"
    plain = dict.fromkeys(parallel, 1) | {"sequence_parallel": False, "distributed_optimizer": False}
    assert format_layout(plain) == "one rank"
