"""Checks of Hugging Face model directories: those that are used, and those that are refused."""

import json

import pytest

from perdure.pipeline.core.hashes import hash_file
from tests.pipeline.checks.models import write_model
from tests.pipeline.checks.template import found

LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    **{"original_max_position_embeddings": 8192, "rope_theta": 5000.0},
}


def test_a_hugging_face_model_is_accepted_and_its_shape_is_used(llama):
    model = f"model={{type: huggingface, path: {llama}}}"
    assert found(model) == {}
    assert "num_query_groups of" in found(model, "parallel.tensor_parallel=4")["parallel.tensor_parallel"][1]
    assert "layers (3)" in found(model, "parallel.pipeline_parallel=2")["parallel.pipeline_parallel"][1]


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; should be llama or mistral or qwen2 or qwen3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rotary scaling 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor of the rotary embedding is None"),
        ({"rope_parameters": LLAMA3 | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantised"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rotary scaling 'linear'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_size": None}, "hidden_size is null; should be a whole number"),
        ({"vocab_size": 4000}, "(4,000 tokens) is smaller than the tokenizer's (4,096)"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(llama, changes, remedy):
    write_model(llama, json.loads((llama / "config.json").read_text()) | changes)
    assert remedy in found(f"model={{type: huggingface, path: {llama}}}")["model.path"][1]
    reference = f"versions.update.selection.reference={llama}"
    assert remedy in found(reference)["versions.update.selection.reference"][1]


def test_samples_must_fit_into_a_sliding_window(llama):
    model = f"model={{type: huggingface, path: {llama}}}"
    config = json.loads((llama / "config.json").read_text())
    for changes, window in (
        ({"model_type": "mistral", "sliding_window": 64}, 64),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True}, None),  # from layer 28 on
        (
            {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0},
            64,
        ),
        ({"model_type": "qwen3", "sliding_window": 64}, None),
    ):
        write_model(llama, config | changes)
        for length in (window or 8192, (window or 8192) + 1):
            problem = found(model, f"training.seq_length={length}").get("training.seq_length")
            assert (problem is not None) == (window is not None and length > window), (changes, length)


def test_weights_in_a_pickle_are_refused(llama):
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    remedy = found(f"model={{type: huggingface, path: {llama}}}")["model.path"][1]
    assert "convert the model to safetensors" in remedy


@pytest.mark.parametrize(
    ("file", "remedy"), [("config.json", "no `config.json`"), ("model.safetensors", "no weights")]
)
def test_an_incomplete_model_directory_is_refused(llama, file, remedy):
    (llama / file).unlink()
    assert remedy in found(f"model={{type: huggingface, path: {llama}}}")["model.path"][1]


def test_a_directory_without_a_readable_tokenizer_is_refused(llama):
    tokenizer = f"tokenizer={{type: huggingface, path: {llama}}}"
    assert "`tokenizer.json`" in found(tokenizer)["tokenizer.path"][1]
    (llama / "tokenizer.json").write_text("{}")
    assert "cannot be read" in found(tokenizer)["tokenizer.path"][1]


def test_a_reference_with_another_tokenizer_is_refused_with_both_hashes(llama, tmp_path):
    from tokenizers import Tokenizer, models

    for directory, word in ((llama, "a"), (tmp_path / "other", "b")):
        directory.mkdir(exist_ok=True)
        Tokenizer(models.WordLevel({word: 0}, unk_token=word)).save(str(directory / "tokenizer.json"))
    overrides = [
        f"tokenizer={{type: huggingface, path: {llama}, eos_token: a}}",
        f"versions.update.selection.reference={llama}",
    ]
    assert found(*overrides) == {}
    overrides[0] = f"tokenizer={{type: huggingface, path: {tmp_path}/other, eos_token: b}}"
    value, remedy = found(*overrides)["versions.update.selection.reference"]
    assert value == str(llama)
    for directory in (llama, tmp_path / "other"):
        assert hash_file(directory / "tokenizer.json")[:8] in remedy
