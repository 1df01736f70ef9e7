"""Shapes of models, and their parameters against the published counts."""

import json

import pytest
from tiny import tiny_recipe

from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.shape import (
    Shape,
    config_shape,
    config_vocab_size,
    model_shape,
    num_parameters,
    padded_vocab_size,
)

LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
SMOLLM2_135M = LLAMA_2_7B | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}


def shape_of(directory, config: dict) -> Shape:
    (directory / "config.json").write_text(json.dumps(config))
    return config_shape(directory)


@pytest.mark.parametrize(("config", "parameters"), [(LLAMA_2_7B, 6_738_415_616), (SMOLLM2_135M, 134_515_008)])
def test_parameters_are_the_published_ones(tmp_path, config, parameters):
    shape = shape_of(tmp_path, config)
    assert num_parameters(shape, config_vocab_size(tmp_path)) == parameters


def test_rope_theta_of_old_and_new_configs(tmp_path):
    assert shape_of(tmp_path, SMOLLM2_135M).rope_theta == 100_000
    assert shape_of(tmp_path, LLAMA_2_7B).rope_theta == 10_000
    assert shape_of(tmp_path, LLAMA_2_7B | {"rope_theta": 5000}).rope_theta == 5000


def test_defaults_are_those_of_transformers(tmp_path):
    optional = ("num_key_value_heads", "tie_word_embeddings", "rms_norm_eps", "hidden_act", "rope_scaling")
    shape = shape_of(tmp_path, {key: value for key, value in LLAMA_2_7B.items() if key not in optional})
    assert shape == Shape(32, 4096, 11008, 32, 32, 128, False, 10_000.0, 1e-6)


def test_an_explicit_head_width(tmp_path):
    shape = shape_of(tmp_path, SMOLLM2_135M | {"head_dim": 128})
    assert shape.head_dim == 128
    assert num_parameters(shape, 49152) == 134_515_008 + 30 * 576 * (128 - 64) * (2 * 9 + 2 * 3)


QWEN2_05B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QWEN3_06B = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(QWEN2_05B, 494_032_768), (QWEN3_06B, 596_049_920), (MISTRAL_7B, 7_241_732_096)],
)
def test_parameters_and_defaults_of_other_families_are_the_published_ones(tmp_path, config, parameters):
    shape = shape_of(tmp_path, config)
    assert num_parameters(shape, config_vocab_size(tmp_path)) == parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_of_every_family_are_those_of_transformers(tmp_path, family):
    """An entry that `config.json` lacks is what transformers takes for it."""
    from transformers import AutoConfig

    shape, theirs = shape_of(tmp_path, {"model_type": family}), AutoConfig.for_model(family)
    assert (shape.num_layers, shape.hidden_size) == (theirs.num_hidden_layers, theirs.hidden_size)
    assert (shape.ffn_hidden_size, shape.num_attention_heads) == (
        theirs.intermediate_size,
        theirs.num_attention_heads,
    )
    assert shape.num_query_groups == (theirs.num_key_value_heads or 32)
    assert shape.head_dim == (getattr(theirs, "head_dim", None) or 128)
    assert (shape.rope_theta, shape.norm_epsilon) == (
        theirs.rope_parameters["rope_theta"],
        theirs.rms_norm_eps,
    )
    assert shape.sliding_window == getattr(theirs, "sliding_window", None)
    assert shape.tie_embeddings == theirs.tie_word_embeddings
    assert config_vocab_size(tmp_path) == theirs.vocab_size


def test_the_shape_of_a_recipe(tmp_path):
    assert model_shape(tiny_recipe(tmp_path)) == Shape(4, 32, 64, 4, 2, 8, True, 10_000.0, 1e-5)


@pytest.mark.parametrize(
    ("vocab", "padded"), [(1, 128), (128, 128), (129, 256), (49152, 49152), (32001, 32128)]
)
def test_the_vocabulary_is_padded_to_a_multiple_of_128(vocab, padded):
    assert padded_vocab_size(vocab) == padded
