"""Hugging Face model directories: reading their tensors, writing them from a running trainer, hashing their weights.

Tensors stream: one is in memory at a time when reading, one shard when writing. Nothing is ever unpickled.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from perdure.pipeline.convert.weights import stage_tensors
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import SUCCESS, read_json, write_json
from perdure.pipeline.shape import Shape

MAX_SHARD_BYTES = 5_000_000_000
"""Size of a safetensors file beyond which the next one begins."""
INDEX = "model.safetensors.index.json"
OURS = ("manifest.json", SUCCESS, "extension.json")
"""Files of a tokenizer's directory that Hugging Face does not know."""


def tensor_files(directory: Path) -> dict[str, Path]:
    """The safetensors file of every tensor name in a model directory.

    Raises:
        PerdureError: If the directory holds no safetensors, or an index of files that are not in it.
    """
    if (index := directory / INDEX).exists():
        files = {name: directory / file for name, file in read_json(index)["weight_map"].items()}
        for path in sorted(set(files.values())):
            if path.parent != directory or not path.is_file():
                raise PerdureError(
                    f"{index}: names {path.name}, which is not in the directory; copy it again"
                )
        return files
    path = directory / "model.safetensors"
    if not path.exists():
        if pickles := sorted(directory.glob("pytorch_model*.bin")):
            raise PerdureError(
                f"{pickles[0]}: a pickle can run code when it is read, so it is not; convert the model to "
                "safetensors (save_pretrained() on a machine that trusts it)"
            )
        raise PerdureError(f"{directory}: no model.safetensors; save the model with save_pretrained()")
    with _opened(path) as file:
        return dict.fromkeys(file.keys(), path)


def weights_reader(directory: Path) -> Callable[[str], torch.Tensor]:
    """A reader of single tensors by name; a tensor is a view of its file, which is mapped as long as the view lives."""
    files = tensor_files(directory)

    def read(name: str) -> torch.Tensor:
        if name not in files:
            raise PerdureError(f"{directory}: has no tensor {name}, which `config.json` asks for")
        with _opened(files[name]) as file:
            return file.get_tensor(name)

    return read


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise PerdureError(f"{path}: not readable as safetensors ({error}); copy it again") from None


def weights_hash(directory: Path) -> str:
    """Hash over all tensors by name; how they are spread over files does not matter."""
    files, read = tensor_files(directory), weights_reader(directory)
    digest = hashlib.sha256()
    for name in sorted(files):
        tensor = read(name).contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def write_shards(
    tensors: Iterable[tuple[str, torch.Tensor]], directory: Path, part: int, max_shard_bytes: int
) -> None:
    """Writes tensors as they come, a file whenever the next one would exceed `max_shard_bytes`.

    `join_shards` gives the files of all parts their names.

    Args:
        tensors: Names and tensors.
        directory: Where to.
        part: Number of this writer among several.
        max_shard_bytes: Bound of a file, unless a single tensor is larger.
    """
    shard: dict[str, torch.Tensor] = {}
    count = size = 0

    def flush() -> None:
        nonlocal count, size
        stem = f".part-{part:05d}-{count:05d}"
        save_file(shard, directory / f"{stem}.safetensors", metadata={"format": "pt"})
        dtype = str(next(iter(shard.values())).dtype).removeprefix("torch.")
        write_json(directory / f"{stem}.json", {"names": list(shard), "bytes": size, "dtype": dtype})
        shard.clear()
        count, size = count + 1, 0

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_bytes:
            flush()
        shard[name] = tensor.cpu()
        size += tensor.nbytes
        del tensor
    if shard:
        flush()


def join_shards(directory: Path) -> str:
    """Names the files of all parts as Hugging Face does, with an index if there are several.

    Returns:
        The tensors' type, as in `config.json`.
    """
    parts = sorted(directory.glob(".part-*.json"))
    weight_map, total_size, facts = {}, 0, {}
    for number, part in enumerate(parts, 1):
        facts = read_json(part)
        name = (
            f"model-{number:05d}-of-{len(parts):05d}.safetensors" if len(parts) > 1 else "model.safetensors"
        )
        part.with_suffix(".safetensors").rename(directory / name)
        weight_map |= dict.fromkeys(facts["names"], name)
        total_size += facts["bytes"]
        part.unlink()
    if len(parts) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        write_json(directory / INDEX, index)
    return facts["dtype"]


def export(
    model: torch.nn.Module,
    shape: Shape,
    vocab_size: int,
    eos_id: int,
    seq_length: int,
    tokenizer: Path,
    origin: Path | None,
    to: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the running model as a Hugging Face directory; every pipeline stage writes its own files.

    All ranks call this. The directory is written under a temporary name and renamed.

    Args:
        model: The unwrapped model.
        shape: Its shape.
        vocab_size: True size of the vocabulary.
        eos_id: End-of-sequence token.
        seq_length: Length it was trained at.
        tokenizer: Tokenizer directory; its files go along.
        origin: Directory of the Hugging Face model it descends from, whose `config.json` and
            `generation_config.json` are kept; None for a model of our own.
        to: The directory; replaced if it exists.
        max_shard_bytes: Bound of a file.
    """
    partial = to.with_name(f".{to.name}")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    tensors = stage_tensors(model, shape, vocab_size)
    if mpu.get_tensor_model_parallel_rank() == 0 and mpu.get_data_parallel_rank() == 0:
        write_shards(tensors, partial, mpu.get_pipeline_model_parallel_rank(), max_shard_bytes)
    else:
        for _ in tensors:  # only takes part in the gathering
            pass
    dist.barrier()
    if dist.get_rank() == 0:
        dtype = join_shards(partial)
        if origin is None:
            config = _config(shape, eos_id, seq_length)
        else:
            config = {
                key: value for key, value in read_json(origin / "config.json").items() if key != "torch_dtype"
            }
            if (generation := origin / "generation_config.json").is_file():
                shutil.copyfile(generation, partial / generation.name)
        write_json(partial / "config.json", config | {"vocab_size": vocab_size, "dtype": dtype})
        for file in tokenizer.iterdir():
            if file.name not in OURS:
                shutil.copyfile(file, partial / file.name)
        shutil.rmtree(to, ignore_errors=True)
        partial.rename(to)
    dist.barrier()


def copy_model(source: Path, to: Path, max_shard_bytes: int) -> None:
    """Copies a Hugging Face directory, its tensors spread anew over files of a bounded size."""
    partial = to.with_name(f".{to.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    read = weights_reader(source)
    write_shards(((name, read(name)) for name in tensor_files(source)), partial, 0, max_shard_bytes)
    join_shards(partial)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt", ".model") and file.name != INDEX:
            shutil.copyfile(file, partial / file.name)
    partial.rename(to)


def _config(shape: Shape, eos_id: int, seq_length: int) -> dict:
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
