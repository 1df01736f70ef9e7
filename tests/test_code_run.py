"""A whole recipe on repositories whose files are to be filled in: what middles cost, beside transformers."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from run_recipe import RECIPE, perdure

from perdure.pipeline.cli.inspection.gather import of_directory
from perdure.pipeline.cli.inspection.text import print_inspection
from perdure.pipeline.core.files import read_json
from perdure.pipeline.evaluate.infill import infill_rows
from perdure.pipeline.recipe import load_recipe
from tests.pipeline.data.made import documents

pytestmark = pytest.mark.slow
MIME = ("base", "nonmultipart", "text")
"""Modules of `email.mime`, each of which imports the one before it; some may be held out."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The recipe, and what its run said."""
    directory = tmp_path_factory.mktemp("code")
    versions = {
        "base": RECIPE["versions"]["base"] | {"mixture": {"sources": {"code": {}}, "max_repetition": 50}}
    }
    reader = {"type": "python_code", "packages": ["json", "logging", "http", "email", "unittest"]}
    source = {"reader": reader, "fim": {"rate": 1.0}, "repository": {"order": "dependencies"}}
    tree = RECIPE | {
        "out": str(directory / "out"),
        "sources": {"code": RECIPE["sources"]["code"] | source},
        "tokenizer": {"type": "train", "vocab_size": 400, "sources": ["code"]},
        "versions": versions,
    }
    path = directory / "code.yaml"
    path.write_text(yaml.safe_dump(tree))
    found = perdure("run", path)
    assert found.returncode == 0, found.stderr
    return load_recipe(path), found.stdout + found.stderr


def test_middles_cost_what_transformers_says(finished):
    from transformers import AutoModelForCausalLM

    recipe, said = finished
    version = recipe.paths.version("base").directory
    (data,) = recipe.paths.data.glob("code@*")
    (tokenizer,) = recipe.directory.glob("tokenizer@*")
    rows = infill_rows(recipe, "code", data, tokenizer)
    sentinels = read_json(data / "manifest.json")["fim"]["sentinels"]
    file = read_json(data / "manifest.json")["repository"]["sentinels"][1]
    eos = read_json(data / "manifest.json")["eos_id"]
    model = AutoModelForCausalLM.from_pretrained(version / "hf", dtype=torch.float32)
    losses = []
    for row in rows:
        assert [row.tokens.count(token) for token in sentinels] == [1, 1, 1]  # half and half: PSM
        assert row.tokens[:2] == [file, sentinels[0]] and row.tokens[-row.scored - 1] == sentinels[2]
        assert len(row.tokens) <= recipe.training.seq_length
        tokens = torch.tensor([[eos, *row.tokens]])
        with torch.no_grad():
            predictions = model(tokens).logits[0, :-1].log_softmax(-1)
        nll = -predictions.gather(1, tokens[0, 1:, None])[:, 0]
        losses.append(nll[-row.scored :].double().sum().item())
    measured = read_json(version / "eval.json")["fill_in_the_middle"]["code"]
    tokens = sum(row.scored for row in rows)
    assert (measured["tokens"], measured["documents"]) == (tokens, len(rows)) and len(rows) > 5
    assert measured["loss"] == pytest.approx(sum(losses) / tokens, abs=1e-4)
    report = read_json(recipe.paths.report)
    initial, after = report["fill_in_the_middle"]["code"]
    assert after == measured and after["loss"] < initial["loss"] - 0.5
    assert (
        sum(len(row.tokens) - 6 for row in rows) <= recipe.evaluation.max_tokens
    )  # sentinels, and cut tokens
    assert "filling in middles of code costs" in said
    page = Path(recipe.directory, "report", "index.html").read_text()
    assert "Filling in the middle" in page and "left to right" in page


def test_what_was_transformed_is_counted(finished, capsys):
    recipe, said = finished
    (data,) = recipe.paths.data.glob("code@*")
    counts = read_json(data / "manifest.json")["counts"]
    assert counts["fim"]["documents"] == counts["train"]["documents"] == 5
    assert counts["fim"]["psm"] and counts["fim"]["spm"] and counts["unparsable"] == 0
    (row,) = [row for row in documents(data) if (row["split"], row["id"]) == ("train", "email")]
    files = json.loads(row["metadata"])["files"]
    place = {name: files.index(f"email.mime.{name}") for name in MIME if f"email.mime.{name}" in files}
    assert list(place.values()) == sorted(place.values()) and len(place) > 1, files
    print_inspection(of_directory(recipe.directory))
    assert "fill in the middle: " in said and "fill in the middle: " in capsys.readouterr().out
