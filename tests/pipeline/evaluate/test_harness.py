"""What the ranks measure against other implementations: transformers, and lm-evaluation-harness without the internet.

The latter is the package lm_eval (`pip install 'perdure[harness]'`), with tasks of local files.
"""

import importlib.util
import json
import math
import random

import pytest
import yaml
from pyarrow import parquet
from transformers import AutoModelForCausalLM, AutoTokenizer

from perdure.pipeline.cli.entry import main
from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash
from perdure.pipeline.evaluate.report.harness_scores import harness_scores
from perdure.pipeline.recipe import load_recipe

pytestmark = [pytest.mark.slow]

PLANTED = "the quiet harbour of northport opened its third lighthouse in the spring of that year"
FRACTION = 0.1


def corpus():
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(60)]
    texts = [" ".join(rng.choices(words, k=rng.randint(8, 20))) for _ in range(80)]
    return [*texts, f"{' '.join(rng.choices(words, k=10))} {PLANTED}"], words


def probe(name, kind, question, choices):
    return {"id": name, "kind": kind, "question": question, "choices": choices, "answer": choices[0]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One version, measured on held-out documents that fit into one sample, so that none of them is cut."""
    directory = tmp_path_factory.mktemp("harness")
    texts, words = corpus()
    held = [text for text in texts if is_heldout(text_hash(text), FRACTION)]
    write_lines(directory / "prose.jsonl", [{"text": text} for text in texts])
    write_lines(directory / "tasks/held.jsonl", [{"text": text} for text in held])
    task = {
        "task": "held_out",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(directory / "tasks/held.jsonl")}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    }
    (directory / "tasks/held.yaml").write_text(yaml.safe_dump(task))
    facts = [
        probe("plain", "invariant", "  ".join(words[:3]), [words[3], words[4]]),
        probe("cloze", "updated", f"{words[5]} ___ {words[6]}", [words[7], words[8], "zz"]),
        probe("leaked", "new", PLANTED.replace("lighthouse", "___"), ["lighthouse", "bridge"]),
        probe("clean", "new", PLANTED.replace("third", "first").replace("spring", "___"), ["autumn", "may"]),
    ]
    write_lines(directory / "facts.jsonl", facts)
    recipe = {
        "name": "harness",
        "sources": {
            "prose": {
                "reader": {"type": "jsonl", "path": str(directory / "prose.jsonl")},
                "heldout_fraction": FRACTION,
            }
        },
        "data": {"tasks": 1, "workers": 1},
        "tokenizer": {"type": "train", "vocab_size": 300, "sources": ["prose"]},
        "model": {
            "type": "llama",
            "num_layers": 2,
            "hidden_size": 32,
            "ffn_hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
        },
        "training": {"seq_length": 1024, "global_batch_size": 1, "document_mask": True},
        "versions": {
            "v1": {
                "start": {"type": "init"},
                "tokens": 6 * 1024,
                "mixture": {"sources": {"prose": {}}, "max_repetition": 50},
                "schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001},
            }
        },
        "evaluation": {
            "max_tokens": 1024,
            "probes": [str(directory / "facts.jsonl")],
            "harness": {"include_path": str(directory / "tasks"), "tasks": ["held_out"]},
        },
    }
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["run", str(path), "--out", str(directory / "out")]) == 0
    return directory / "out", held, facts


def write_lines(path, items):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


def test_its_loss_agrees_with_ours_on_the_same_file(run):
    out, held, _ = run
    found = read_json(out / "report.json")["harness"]["v1"]["held_out"]
    ours = read_json(out / "versions/v1/eval.json")["domains"]["prose"]
    assert ours["documents"] == len(held) > 3 and ours["tokens"] <= 1024
    assert found["bits_per_byte"] == pytest.approx(ours["text_bits_per_byte"], abs=1e-3)
    nats = ours["text_bits_per_byte"] * ours["bytes"] * math.log(2)
    words = sum(len(text.split()) for text in held)
    assert math.log(found["word_perplexity"]) == pytest.approx(nats / words, abs=1e-3)
    # With the end-of-sequence tokens it is another number: they are what differs.
    assert abs(found["bits_per_byte"] - ours["bits_per_byte"]) > 1e-3


def test_sums_by_document_are_what_the_export_says(run):
    out, held, _ = run
    model, encode = loaded(out)
    rows = parquet.read_table(out / "versions/v1/eval_documents.parquet").to_pylist()
    for row, text in zip(rows, held, strict=True):
        losses = token_losses(model, [*encode(text).ids, 0])
        assert row["tokens"] == len(losses) and row["bytes"] == len(text.encode())
        assert row["loss"] == pytest.approx(sum(losses), abs=1e-3)
        assert row["separator_loss"] == pytest.approx(losses[-1], abs=1e-4)
    ours = read_json(out / "versions/v1/eval.json")["domains"]["prose"]
    assert sum(row["loss"] for row in rows) / ours["tokens"] == pytest.approx(ours["loss"], rel=1e-12)


def test_scores_of_choices_are_what_the_export_says(run):
    out, _, facts = run
    model, encode = loaded(out)
    rows = parquet.read_table(out / "versions/v1/eval_probes.parquet").to_pylist()
    for row, fact in zip(rows, facts, strict=True):
        for score, choice in zip(row["scores"], fact["choices"], strict=True):
            before, _, after = fact["question"].partition("___")
            text = before + choice + after if "___" in fact["question"] else f"{before} {choice}"
            rest = len((choice + after).encode())
            # What the choice adds to its context, which ends before the blank.
            losses, context = token_losses(model, encode(text).ids), encode(before.rstrip()).ids
            assert encode(text).ids[: len(context)] == context
            assert score == pytest.approx(-sum(losses[len(context) :]) / rest, abs=1e-4)


def test_a_planted_passage_is_named_in_the_report(run):
    found = read_json(run[0] / "report.json")["contamination"]["probes"]["facts.jsonl"]
    assert [entry["item"] for entry in found["found"]] == ["leaked"] and found["leaked"] == 1


def test_what_is_there_is_not_run_again(run, capsys, monkeypatch):
    monkeypatch.setattr(
        "perdure.pipeline.evaluate.harness.run_tasks", lambda *_: pytest.fail("the harness ran again")
    )
    out = run[0]
    assert main(["eval", str(out.parent / "recipe.yaml"), "--out", str(out)]) == 0
    assert "version v1: finished, skipped" in capsys.readouterr().out


def test_an_unknown_task_is_one_line(run, capsys):
    out = run[0]
    command = ["eval", str(out.parent / "recipe.yaml"), "--out", str(out)]
    assert main([*command, "--set", "evaluation.harness.tasks=[held]"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: evaluation.harness: held: ") and "\n" not in error, error


def test_a_report_shows_results_of_the_tasks_that_the_recipe_asks_for(run):
    def shown(recipe):
        return harness_scores(recipe, {})["harness"]

    recipe = load_recipe(run[0].parent / "recipe.yaml", out=run[0])
    assert shown(recipe)["v1"].keys() == {"held_out"}
    tasks = recipe.evaluation.harness.include_path
    for left in ("__pycache__/utils.cpython-311.pyc", ".held.yaml.swp"):
        write_lines(tasks / left, [])
    assert shown(recipe)["v1"].keys() == {"held_out"}
    (tasks / "more.yaml").write_text("task: more\n")
    assert shown(recipe) is None  # not of these tasks
    (tasks / "more.yaml").unlink()
    assert shown(recipe)["v1"].keys() == {"held_out"}
    tasks.rename(tasks.with_name("away"))
    assert shown(recipe)["v1"].keys() == {"held_out"}
    tasks.with_name("away").rename(tasks)
    without = recipe.evaluation.model_copy(update={"harness": None})
    assert shown(recipe.model_copy(update={"evaluation": without})) is None


def test_the_initial_model_has_the_scores_of_its_weights(run, capsys):
    """A run that starts from the export of the first: its initial model is the first one's version."""
    out = run[0]
    recipe = yaml.safe_load((out.parent / "recipe.yaml").read_text())
    model = {"type": "huggingface", "path": str(out / "versions/v1/hf")}
    recipe |= {"name": "update", "model": model, "tokenizer": model}
    recipe["evaluation"] |= {"probes": [], "contamination": None}
    recipe["versions"]["v1"]["tokens"] = 2 * 1024
    path, second = out.parent / "update.yaml", out.parent / "second"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["run", str(path), "--out", str(second)]) == 0
    report = read_json(second / "report.json")
    old = read_json(out / "versions/v1/harness.json")["tasks"]["held_out"]
    new = report["harness"]["v1"]["held_out"]
    assert report["harness_initial"]["tasks"]["held_out"] == old
    change = report["harness_change"]["v1"]["held_out"]["bits_per_byte"]
    assert change["change"] == new["bits_per_byte"] - old["bits_per_byte"] != 0
    said = capsys.readouterr().out
    assert "initial model: lm-evaluation-harness, held_out" in said
    assert "lm-evaluation-harness: initial model: held_out: " in said


def test_without_the_package_check_says_what_to_install(run, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name))
    out = run[0]
    section = f"evaluation.harness={{include_path: {out.parent / 'tasks'}, tasks: [held_out]}}"
    assert main(["check", str(out.parent / "recipe.yaml"), "--set", section]) == 2
    assert "needs lm-evaluation-harness: install `perdure[harness]`" in capsys.readouterr().err


def loaded(out):
    model = AutoModelForCausalLM.from_pretrained(out / "versions/v1/hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "versions/v1/hf").backend_tokenizer
    return model, lambda text: tokenizer.encode(text, add_special_tokens=False)


def token_losses(model, ids):
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([[0, *ids[:-1]]])).logits[0].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="none").tolist()
