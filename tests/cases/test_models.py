"""Model directories that version 0.1 answered wrongly, through the command line as their user would meet them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.cases.small import Case, change_json

pytestmark = pytest.mark.slow


# --------------------------------------------------------------- what is trained and exported is what the files mean


def largest_difference(case: Case) -> float:
    """Of logits between the initial model and its untrained export, both by transformers."""
    assert case.perdure("data")[0] == 0 and case.perdure("train", "--version", "v")[0] == 0
    tokens = torch.arange(3, 67)[None]
    both = [
        AutoModelForCausalLM.from_pretrained(case.directory / path, dtype=torch.float32).eval()
        for path in ("model", "out/versions/v/hf")
    ]
    with torch.no_grad():
        first, second = (model(tokens).logits for model in both)
    return float((first - second).abs().max())


def test_01_a_head_of_its_own_beside_tied_embeddings(with_model):
    case = with_model(tie_word_embeddings=False)
    change_json(case.directory / "model" / "config.json", tie_word_embeddings=True)
    assert largest_difference(case) < 1e-5


def test_15_an_index_of_files_that_are_gone(with_model):
    case = with_model(tie_word_embeddings=False)
    names = load_file(case.directory / "model" / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00005.safetensors")}
    (case.directory / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    status, _, err = case.perdure("import", "model")
    assert status == 0, err
    assert largest_difference(case) < 1e-5


def test_18_tensors_that_nothing_reads(with_model):
    case = with_model(tie_word_embeddings=False)
    path = case.directory / "model" / "model.safetensors"
    biases = {
        f"model.layers.{layer}.self_attn.{part}_proj.bias": torch.zeros(64 if part in "qo" else 32)
        for layer in range(2)
        for part in "qkvo"
    }
    save_file(load_file(path) | biases, path, {"format": "pt"})
    said = [*case.perdure("import", "model")[1:], *case.perdure("check")[1:]]
    assert "bias" in "".join(said[:2]) and "bias" in "".join(said[2:])
