"""The `config.json` of an export, field by field: what it says is the model that was trained."""

import json

import pytest
from transformers import AutoConfig

from perdure.pipeline.model.export import descendant_config, own_config
from perdure.pipeline.model.shape import Shape, config_shape

ODD = Shape(3, 48, 80, 6, 3, 16, False, 12_345.0, 3e-4)
"""No number of it is what transformers takes where a field is missing."""


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_of_our_own_is_read_back_as_it_is(tmp_path, tied):
    shape = Shape(3, 48, 80, 6, 3, 16, tied, 12_345.0, 3e-4)
    config = own_config(shape, 7, 96) | {"vocab_size": 131, "dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert config_shape(tmp_path) == shape
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert (theirs.num_hidden_layers, theirs.hidden_size, theirs.intermediate_size) == (3, 48, 80)
    assert (theirs.num_attention_heads, theirs.num_key_value_heads, theirs.head_dim) == (6, 3, 16)
    assert (theirs.rms_norm_eps, theirs.rope_parameters["rope_theta"]) == (3e-4, 12_345.0)
    assert (theirs.tie_word_embeddings, theirs.max_position_embeddings) == (tied, 96)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (7, 7)


@pytest.mark.parametrize(
    ("named", "ends"),
    [(None, 7), (7, 7), (2, [7, 2]), ([2, 9], [7, 2]), ([7, 9], 7)],
)
def test_a_descendant_ends_in_its_own_separator_and_keeps_the_rest(named, ends):
    """9 is a token of ordinary text, which would end sentences at random; 2 ends a turn."""
    origin = {
        "eos_token_id": named,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": True,
        "rms_norm_eps": 0.5,
    }
    found = descendant_config(origin, ODD, 7, {2: "<turn>", 7: "</s>"})
    assert found == {"eos_token_id": ends, "tie_word_embeddings": False, "rms_norm_eps": 0.5}
