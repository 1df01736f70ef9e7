"""A made-up run's pages and TensorBoard files, and which version is offered for export."""

import json
import shutil
from pathlib import Path

import pytest
from messages import messages
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.evaluate.record import measured_on, record_data
from perdure.pipeline.evaluate.report.board import write_board
from perdure.pipeline.evaluate.report.formats import loss_table
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.report import write_report
from perdure.pipeline.recipe import Recipe
from tests.pipeline.evaluate.made_up import ALL


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


def offered(recipe, data) -> list[str]:
    record_data(recipe, data)
    with messages() as said:
        write_report(recipe, Path("my.yaml"))
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
def test_whole_report_over_real_data(recipe, tmp_path, run, said):
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
    directories = run_data(recipe)
    before = write_report(recipe)
    assert before["unmeasured"] == []
    assert before["data"]["code"]["documents"] == {"in": 61, "dropped": {"exact_duplicate": 1}, "out": 60}

    run(recipe, ALL)  # measured on other text
    record_data(recipe, directories)
    shutil.rmtree(texts)  # the raw text may be gone by now
    said.clear()
    report = write_report(recipe)
    assert report["unmeasured"] == ALL and report["loss_matrix"] == [[None] * 3] * 5
    (told,) = (line for line in said if "not measured on this recipe's held-out text" in line)
    assert told.startswith("No losses of base, reference, update, control: ")
    for path in recipe.directory.glob("versions/*/eval*.json"):
        write_json(path, read_json(path) | {"measured": measured_on(recipe, directories)})
    said.clear()
    report = write_report(recipe)
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
