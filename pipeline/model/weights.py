"""Weights: Hugging Face tensors to Megatron parameters and back, by the tables of `families`.

`load_weights` fills this rank's part of a model from a reader of Hugging Face tensors; `stage_tensors` goes the
other way. Both work one parameter at a time.
"""

import hashlib
import math
from collections.abc import Callable, Iterator

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from torch import Tensor

from perdure.pipeline.model import collectives
from perdure.pipeline.model.families import FAMILIES, TOP
from perdure.pipeline.model.shape import Shape, tensor_sizes


def load_weights(model: torch.nn.Module, shape: Shape, read: Callable[[str], Tensor]) -> None:
    """Fills this rank's parameters.

    Args:
        model: An unwrapped `LanguageModel`.
        shape: Its shape.
        read: Returns the whole Hugging Face tensor of a name.
    """
    rank, size = mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()
    for name, parameter in model.named_parameters():
        sources = hf_names(model, name, shape)
        whole = _join(name, [read(source) for source in sources], shape)
        if sources == ("model.embed_tokens.weight",) or sources == ("lm_head.weight",):
            padding = parameter.shape[0] * size - whole.shape[0]
            whole = torch.nn.functional.pad(whole, (0, 0, 0, padding))
        with torch.no_grad():
            parameter.copy_(_cut(name, whole, size)[rank])


def mark_tensor_parallel(model: torch.nn.Module) -> None:
    """Marks the parameters that are cut, as Megatron's own initialisation would have: the gradient norm counts the
    parts of a cut parameter on every rank, but the copies of a whole one once."""
    for name, parameter in model.named_parameters():
        if not name.endswith("norm.weight"):
            by_columns = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
            if not hasattr(parameter, "tensor_model_parallel"):
                set_tensor_model_parallel_attributes(parameter, True, 1 if by_columns else 0, 1)


def stage_tensors(model: torch.nn.Module, shape: Shape, vocab_size: int) -> Iterator[tuple[str, Tensor]]:
    """Yields this pipeline stage's Hugging Face tensors, one at a time; all ranks must iterate.

    Between two tensors one of them may write files for as long as it takes: the others wait for it over gloo.

    Args:
        model: An unwrapped `LanguageModel`.
        shape: Its shape.
        vocab_size: Rows to keep of the padded vocabulary.
    """
    size, group = mpu.get_tensor_model_parallel_world_size(), mpu.get_tensor_model_parallel_group()
    waiting = collectives.part(group)
    for name, parameter in model.named_parameters():
        targets = hf_names(model, name, shape)
        if name == "output_layer.weight" and shape.tie_embeddings:
            continue  # the last stage's copy of the embedding
        parts = [torch.empty_like(parameter) for _ in range(size)]
        dist.barrier(group=waiting)
        dist.all_gather(parts, parameter.detach().contiguous(), group=group)
        whole = _uncut(name, parts)
        if name in ("embedding.word_embeddings.weight", "output_layer.weight"):
            whole = whole[:vocab_size]
        for target, tensor in zip(targets, _split(name, whole, shape)):
            yield target, tensor.contiguous()


def random_weights(shape: Shape, vocab_size: int, init_std: float, seed: int) -> Callable[[str], Tensor]:
    """A reader of random weights: normal with `init_std`, projections into the residual stream scaled by
    1/sqrt(2 num_layers), norms 1. Every tensor's numbers follow from the seed and its name, so that all layouts
    start from the same model."""
    sizes = tensor_sizes(shape, vocab_size)

    def read(name: str) -> Tensor:
        part = name.split(".")[-2]
        if part.endswith("norm"):
            return torch.ones(sizes[name])
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        residual = part in ("o_proj", "down_proj")
        std = init_std / math.sqrt(2 * shape.num_layers) if residual else init_std
        return torch.randn(sizes[name], generator=generator) * std

    return read


def hf_names(model: torch.nn.Module, name: str, shape: Shape) -> tuple[str, ...]:
    """Hugging Face names of a Megatron parameter, its layer counted over all pipeline stages."""
    if name in TOP:
        tied = name == "output_layer.weight" and shape.tie_embeddings
        return (TOP["embedding.word_embeddings.weight" if tied else name],)
    _decoder, _layers, local, part = name.split(".", 3)
    layer = model.decoder.layers[int(local)].layer_number - 1
    return tuple(f"model.layers.{layer}.{target}" for target in FAMILIES[shape.family].layer[part])


def _join(name: str, tensors: list[Tensor], shape: Shape) -> Tensor:
    """Hugging Face tensors to the whole Megatron tensor: query, key and value rows are interleaved by group."""
    if "linear_qkv" in name:
        groups = [tensor.unflatten(0, (shape.num_query_groups, -1)) for tensor in tensors]
        return torch.cat(groups, 1).flatten(0, 1)
    return torch.cat(tensors)


def _split(name: str, whole: Tensor, shape: Shape) -> list[Tensor]:
    """Undoes `_join`."""
    if "linear_qkv" in name:
        per_group = shape.num_attention_heads // shape.num_query_groups
        sizes = [per_group * shape.head_dim, shape.head_dim, shape.head_dim]
        return [
            part.flatten(0, 1) for part in whole.unflatten(0, (shape.num_query_groups, -1)).split(sizes, 1)
        ]
    return list(whole.chunk(2)) if name.endswith("linear_fc1.weight") else [whole]


def _cut(name: str, whole: Tensor, size: int) -> list[Tensor]:
    """The whole tensor to its tensor-parallel parts."""
    if name.endswith("norm.weight"):
        return [whole] * size
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return list(whole.chunk(size, 1))
    if name.endswith("linear_fc1.weight"):  # every rank holds its part of both the gate and the up projection
        return [torch.cat(pair) for pair in zip(*(half.chunk(size) for half in whole.chunk(2)))]
    return list(whole.chunk(size))


def _uncut(name: str, parts: list[Tensor]) -> Tensor:
    """Undoes `_cut`."""
    if name.endswith("norm.weight"):
        return parts[0]
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        return torch.cat(parts, 1)
    if name.endswith("linear_fc1.weight"):
        gates, ups = zip(*(part.chunk(2) for part in parts))
        return torch.cat([*gates, *ups])
    return torch.cat(parts)
