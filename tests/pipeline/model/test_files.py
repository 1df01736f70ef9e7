"""Which files, tensors and ties count where a model directory says two things; what nothing reads is named."""

import json

import pytest
import torch
from model_directories import HEAD, directory_of, write
from safetensors.torch import load_file

from perdure.pipeline.cli.models import describe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.model.files import heads_differ, listed, model_tensors, weight_files
from perdure.pipeline.model.huggingface import weights_reader
from perdure.pipeline.model.shape import config_shape, config_vocab_size, tensor_sizes


def sizes(directory):
    return tensor_sizes(config_shape(directory), config_vocab_size(directory))


def test_a_tied_model_with_another_head_keeps_both(tmp_path):
    directory = directory_of("llama")
    directory.config["tie_word_embeddings"] = True
    path = write(directory, tmp_path / "model")
    assert heads_differ(path)
    assert not config_shape(path).tie_embeddings
    assert HEAD in model_tensors(path, sizes(path))[0]
    assert "untied embeddings" in describe(path)


def test_a_tied_model_with_the_same_head_is_tied_also_after_a_change(tmp_path):
    directory = directory_of("llama")
    directory.config["tie_word_embeddings"] = True
    head = directory.tensors[HEAD]
    directory.tensors[HEAD] = directory.tensors["model.embed_tokens.weight"].clone()
    path = write(directory, tmp_path / "model")
    assert config_shape(path).tie_embeddings
    directory.tensors[HEAD] = head
    write(directory, tmp_path / "other")
    (tmp_path / "other/model.safetensors").replace(path / "model.safetensors")
    assert not config_shape(path).tie_embeddings


@pytest.mark.parametrize("type_", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_are_compared_as_numbers(tmp_path, type_):
    directory = directory_of("llama")
    embedding = directory.tensors["model.embed_tokens.weight"].bfloat16()
    directory.tensors |= {"model.embed_tokens.weight": embedding.float(), HEAD: embedding.to(type_)}
    assert not heads_differ(write(directory, tmp_path / "same"))
    directory.tensors[HEAD][-1, -1] += 1
    assert heads_differ(write(directory, tmp_path / "other"))


def test_one_file_counts_before_an_index_and_all_that_is_in_files_is_read(tmp_path):
    directory = directory_of("llama")
    directory.layout = "both"
    path = write(directory, tmp_path / "both")
    assert [file.name for file in weight_files(path)] == ["model.safetensors"]
    assert torch.equal(weights_reader(path)(HEAD), directory.tensors[HEAD])
    (path / "model.safetensors").unlink()
    shard = weight_files(path)[0]
    index = {"metadata": {}, "weight_map": {"whatever": shard.name}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").unlink()
    assert set(load_file(shard)) == {
        stored for stored in load_file(shard) if weights_reader(path)(stored) is not None
    }


def test_tensors_that_nothing_reads_are_named(tmp_path):
    directory = directory_of("llama")
    for layer in range(2):
        directory.tensors[f"model.layers.{layer}.self_attn.o_proj.bias"] = torch.ones(32)
    directory.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    path = write(directory, tmp_path / "model")
    names = [f"model.layers.{layer}.self_attn.o_proj.bias" for layer in range(2)]
    assert sorted(model_tensors(path, sizes(path))[1]) == names
    assert "nothing reads 2 tensors" in describe(path)
    assert all(name in describe(path) for name in names)


def test_many_names_are_taken_together():
    names = [f"model.layers.{layer}.self_attn.{part}_proj.bias" for layer in range(32) for part in "qk"]
    assert listed([*names, "score.weight"]) == (
        "model.layers.*.self_attn.q_proj.bias (32), model.layers.*.self_attn.k_proj.bias (32), score.weight"
    )
    assert listed(names[:2]) == ", ".join(names[:2])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"vocab_size": 384}, r"embed_tokens\.weight is \[320, 32\]; `config\.json` asks for \[384, 32\]"),
        ({"num_hidden_layers": 3}, r"has no tensor model\.layers\.2"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; should be true or false"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rotary scaling 'yarn' is not supported"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, config, reason):
    directory = directory_of("llama")
    directory.config |= config
    with pytest.raises(PerdureError, match=reason) as refused:
        describe(write(directory, tmp_path / "model"))
    assert "\n" not in str(refused.value)
