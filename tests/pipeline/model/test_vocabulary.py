"""Which tokenizers may follow on which: the same, or one that extends it."""

import json
import random
import subprocess
import sys

import pytest
import torch
import yaml
from tiny import tiny_llama

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.data.tokenizer.train import train
from perdure.pipeline.model.vocabulary import Extension, extended_reader, extension_between
from perdure.pipeline.run.version_inputs import embedding_rows


@pytest.fixture
def directories(tmp_path):
    """A model of 300 embeddings, and a tokenizer that extends its tokenizer by two tokens."""
    model, tokenizer = tmp_path / "model", tmp_path / "tokenizer"
    for directory, content in ((model, "old"), (tokenizer, "new")):
        directory.mkdir()
        (directory / "tokenizer.json").write_text(content)
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300}))
    base = hash_file(model / "tokenizer.json")
    facts = {"base_tokenizer_hash": base, "base_vocab_size": 299, "pieces": [[0, 2], [1]]}
    write_json(tokenizer / "extension.json", facts)
    return model, tokenizer


def test_an_extension_of_the_models_tokenizer_is_found(directories):
    assert extension_between(*directories) == Extension(299, [[0, 2], [1]])
    assert embedding_rows(*directories, 301) == 301
    assert embedding_rows(*directories, 299) == 300  # a model may have spare rows


def test_a_model_that_has_the_tokenizer_already_is_left_alone(directories):
    model, tokenizer = directories
    (model / "tokenizer.json").write_text("new")
    assert extension_between(model, tokenizer) is None
    with pytest.raises(PerdureError, match="300 embeddings, but the tokenizer has 301 tokens"):
        embedding_rows(model, tokenizer, 301)


def test_any_other_tokenizer_is_refused_naming_the_hashes(directories):
    model, tokenizer = directories
    base = hash_file(model / "tokenizer.json")[:8]
    (model / "tokenizer.json").write_text("other")
    ours, theirs = (hash_file(path / "tokenizer.json")[:8] for path in (tokenizer, model))
    with pytest.raises(PerdureError) as refusal:
        extension_between(model, tokenizer)
    assert all(digest in str(refusal.value) for digest in (base, ours, theirs))
    (tokenizer / "extension.json").unlink()
    with pytest.raises(PerdureError, match=rf"\({theirs}\) is not the run's \({ours}\)"):
        extension_between(model, tokenizer)


def test_rows_of_new_tokens_are_means():
    weight = torch.arange(12.0).view(4, 3)
    read = extended_reader(
        {"model.embed_tokens.weight": weight, "x": weight}.get, Extension(3, [[0, 2], [1]]), 5
    )
    assert torch.equal(read("x"), weight)
    found = read("model.embed_tokens.weight")
    assert torch.equal(found[:3], weight[:3])
    assert found[3:].tolist() == [[3.0, 4.0, 5.0], [3.0, 4.0, 5.0]]


@pytest.mark.slow
def test_a_model_is_updated_under_an_extended_tokenizer(tmp_path):
    """A whole run from a model whose tokenizer is extended, and another from its result, which has it already."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rng = random.Random(3)
    words = ["".join(rng.choices("mnopqrst", k=6)) for _ in range(60)]
    rows = [{"text": " ".join(rng.choices(words, k=40)), "id": str(number)} for number in range(80)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, extended = tmp_path / "model", {"type": "extend", "num_tokens": 40, "sources": ["new"]}
    tiny_llama(model, 270, num_hidden_layers=1)
    train(262, iter(["abc abc"] * 3)).save(str(model / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    recipe = {
        "name": "extended",
        "sources": {
            "new": {
                "reader": {"type": "jsonl", "path": str(tmp_path / "new.jsonl")},
                "heldout_fraction": 0.2,
                "clean": [],
            }
        },
        "data": {"tasks": 1, "workers": 1},
        "tokenizer": extended | {"path": str(model)},
        "model": {"type": "huggingface", "path": str(model)},
        "training": {"seq_length": 32, "global_batch_size": 2},
        "versions": {
            "v1": {
                "start": {"type": "init"},
                "tokens": 128,
                "mixture": {"sources": {"new": {}}},
                "schedule": {"type": "cosine", "max_lr": 1e-3, "min_lr": 1e-4},
            }
        },
    }
    recipe["versions"]["v2"] = recipe["versions"]["v1"] | {"start": {"type": "update", "parent": "v1"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "perdure.pipeline.cli", "run", tmp_path / "recipe.yaml"]
    result = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "restored: weights (rows of 40 new tokens from the means of their pieces')" in result.stdout
    assert "update of v1: restored: weights; reset" in result.stdout
    exported = tmp_path / "out/versions/v2/hf"
    tokenizer, final = AutoTokenizer.from_pretrained(exported), AutoModelForCausalLM.from_pretrained(exported)
    first = json.loads((next((tmp_path / "out").glob("tokenizer@*")) / "extension.json").read_text())
    assert final.config.vocab_size == len(tokenizer) == first["base_vocab_size"] + 40
    old = AutoTokenizer.from_pretrained(model)
    assert len(tokenizer(rows[0]["text"]).input_ids) < 0.8 * len(old(rows[0]["text"]).input_ids)
