"""Hugging Face model directories: reading their tensors, writing them from a running trainer, hashing their weights."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from perdure.pipeline.convert.llama import stage_tensors
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import read_json, write_json
from perdure.pipeline.shape import Shape

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def tensor_files(directory: Path) -> dict[str, Path]:
    """The safetensors file of every tensor name in a model directory.

    Raises:
        PerdureError: If the directory holds no safetensors.
    """
    if (index := directory / "model.safetensors.index.json").exists():
        return {name: directory / file for name, file in read_json(index)["weight_map"].items()}
    path = directory / "model.safetensors"
    if not path.exists():
        raise PerdureError(f"{directory}: no model.safetensors; save the model with save_pretrained()")
    with safe_open(path, "pt") as file:
        return dict.fromkeys(file.keys(), path)


def weights_reader(directory: Path) -> Callable[[str], torch.Tensor]:
    """A reader of single tensors by name."""
    files = tensor_files(directory)

    def read(name: str) -> torch.Tensor:
        if name not in files:
            raise PerdureError(f"{directory}: has no tensor {name}; is it a Llama model?")
        with safe_open(files[name], "pt") as file:
            return file.get_tensor(name)

    return read


def weights_hash(directory: Path) -> str:
    """Hash over all tensors by name; how they are spread over files does not matter."""
    files = tensor_files(directory)
    digest = hashlib.sha256()
    for name in sorted(files):
        with safe_open(files[name], "pt") as file:
            tensor = file.get_tensor(name).contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def export(
    model: torch.nn.Module,
    shape: Shape,
    vocab_size: int,
    eos_id: int,
    seq_length: int,
    tokenizer: Path,
    origin: dict,
    to: Path,
) -> None:
    """Writes the running model as a Hugging Face directory; every pipeline stage writes its own file.

    All ranks call this. The directory is written under a temporary name and renamed.

    Args:
        model: The unwrapped model.
        shape: Its shape.
        vocab_size: True size of the vocabulary.
        eos_id: End-of-sequence token.
        seq_length: Length it was trained at.
        tokenizer: Tokenizer directory; its files go along.
        origin: `config.json` of the model it descends from, whose entries are kept; empty for a model of our own.
        to: The directory; replaced if it exists.
    """
    partial = to.with_name(f".{to.name}")
    stage, stages = mpu.get_pipeline_model_parallel_rank(), mpu.get_pipeline_model_parallel_world_size()
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    writes = mpu.get_tensor_model_parallel_rank() == 0 and mpu.get_data_parallel_rank() == 0
    tensors = {}
    for target, tensor in stage_tensors(model, shape, vocab_size):
        if writes:  # the other ranks only take part in the gathering
            tensors[target] = tensor.cpu()
    name = "model.safetensors" if stages == 1 else f"model-{stage + 1:05d}-of-{stages:05d}.safetensors"
    if writes:
        save_file(tensors, partial / name, metadata={"format": "pt"})
        write_json(partial / f".index-{stage}.json", dict.fromkeys(tensors, name))
    dist.barrier()
    if dist.get_rank() == 0:
        if stages > 1:
            parts = [read_json(partial / f".index-{number}.json") for number in range(stages)]
            weight_map = {tensor: file for part in parts for tensor, file in part.items()}
            size = sum(file.stat().st_size for file in partial.glob("*.safetensors"))
            write_json(
                partial / "model.safetensors.index.json",
                {"metadata": {"total_size": size}, "weight_map": weight_map},
            )
        for index in partial.glob(".index-*.json"):
            index.unlink()
        dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        config = _config(shape, vocab_size, eos_id, seq_length) | origin | {"dtype": dtype}
        write_json(partial / "config.json", config)
        for file in TOKENIZER_FILES:
            if (tokenizer / file).exists():
                shutil.copy(tokenizer / file, partial / file)
        shutil.rmtree(to, ignore_errors=True)
        partial.rename(to)
    dist.barrier()


def _config(shape: Shape, vocab_size: int, eos_id: int, seq_length: int) -> dict:
    """`config.json` of a Llama, as transformers 5 writes it (`rope_parameters`) and 4 reads it (`rope_theta`)."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
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
