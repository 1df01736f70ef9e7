"""Writing the running model as a Hugging Face directory."""

import shutil
from itertools import chain
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist

from perdure.pipeline.core.files import move_whole, read_json, write_json
from perdure.pipeline.core.paths import SUCCESS
from perdure.pipeline.core.tokenizers import LOADED
from perdure.pipeline.model import collectives
from perdure.pipeline.model.huggingface import MAX_SHARD_BYTES, join_shards, write_shards
from perdure.pipeline.model.separator import end_tokens, special_tokens
from perdure.pipeline.model.shape import Shape, model_shape
from perdure.pipeline.model.weights import stage_tensors
from perdure.pipeline.recipe import LlamaModel, Recipe

OURS = ("manifest.json", SUCCESS, "extension.json", LOADED)
"""Files of a tokenizer's directory that Hugging Face does not know."""


def export(
    model: torch.nn.Module,
    recipe: Recipe,
    vocab_size: int,
    eos_id: int,
    tokenizer: Path,
    to: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the running model as a Hugging Face directory; every pipeline stage writes its own files.

    All ranks call this. The directory is written under a temporary name and renamed. A Hugging Face model that the run
    started from lends its `config.json` and `generation_config.json`, but for the separator and what its files tie.

    Args:
        model: The unwrapped model.
        recipe: The model's shape, and the length that it was trained at.
        vocab_size: True size of the vocabulary.
        eos_id: End-of-sequence token.
        tokenizer: Tokenizer directory; its files are copied.
        to: The directory; replaced if it exists.
        max_shard_bytes: Bound of a file.
    """
    partial, shape = to.with_name(f".{to.name}"), model_shape(recipe)
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    collectives.barrier()
    tensors = stage_tensors(model, shape, vocab_size)
    written: list[str] = []
    if mpu.get_tensor_model_parallel_rank() == 0 and mpu.get_data_parallel_rank() == 0:
        written = write_shards(tensors, partial, mpu.get_pipeline_model_parallel_rank(), max_shard_bytes)
    else:
        for _ in tensors:  # only takes part in the gathering
            pass
    names = list(chain.from_iterable(collectives.from_all(written)))
    if dist.get_rank() == 0:
        for name in names:
            collectives.await_file(partial / name)
        dtype = join_shards(partial)
        if isinstance(recipe.model, LlamaModel):
            config = own_config(shape, eos_id, recipe.training.seq_length)
        else:
            origin, special = recipe.model.path, special_tokens(tokenizer)
            config = descendant_config(read_json(origin / "config.json"), shape, eos_id, special)
            if (path := origin / "generation_config.json").is_file():
                generation = read_json(path)
                ends = end_tokens(generation.get("eos_token_id"), eos_id, special)
                write_json(partial / path.name, generation | {"eos_token_id": ends}, checksum=False)
        config |= {"vocab_size": vocab_size, "dtype": dtype}
        write_json(partial / "config.json", config, checksum=False)
        for file in tokenizer.iterdir():
            if file.name not in OURS and not file.name.startswith("."):
                shutil.copyfile(file, partial / file.name)
        shutil.rmtree(to, ignore_errors=True)
        move_whole(partial, to)
    collectives.barrier()


def descendant_config(config: dict, shape: Shape, eos_id: int, special: dict[int, str]) -> dict:
    """The `config.json` of a model that another one became; only what is no longer true is changed."""
    kept = {key: value for key, value in config.items() if key not in ("torch_dtype", "transformers_weights")}
    kept["eos_token_id"] = end_tokens(config.get("eos_token_id"), eos_id, special)
    if config.get("tie_word_embeddings", False) != shape.tie_embeddings:
        kept["tie_word_embeddings"] = shape.tie_embeddings
    return kept


def own_config(shape: Shape, eos_id: int, seq_length: int) -> dict:
    """`config.json` of a Llama of our own, as transformers 5 writes it (`rope_parameters`) and 4 reads it (`rope_theta`)."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_query_groups,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": seq_length,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tie_embeddings,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
    }
