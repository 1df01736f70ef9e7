"""Weights: Hugging Face tensors to Megatron parameters and back, by the rules of `parameters`.

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
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.parameters import EMBEDDING, TOP, ParamRule
from perdure.pipeline.model.shape import Shape, dimensions, tensor_rules, tensor_sizes


def load_weights(model: torch.nn.Module, shape: Shape, read: Callable[[str], Tensor]) -> None:
    """Fills this rank's parameters from Hugging Face tensors; the host holds one of those at a time.

    Args:
        model: An unwrapped `LanguageModel`.
        shape: Its shape.
        read: Returns the whole Hugging Face tensor of a name.
    """
    rank, size = mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue  # an adapter's, see `adapters`
        rule = rule_of(name, shape)
        to = {"device": parameter.device, "dtype": parameter.dtype}
        whole = join(rule, [read(source).to(**to) for source in hf_names(model, name, shape)], shape)
        if rule.padded:
            padding = parameter.shape[0] * size - whole.shape[0]
            whole = torch.nn.functional.pad(whole, (0, 0, 0, padding))
        with torch.no_grad():
            parameter.copy_(cut(rule, whole, size)[rank])


def mark_tensor_parallel(model: torch.nn.Module, shape: Shape) -> None:
    """Marks the parameters that ranks cut, as Megatron's own initialisation would have: the gradient norm counts the
    parts of a cut parameter on every rank, but the copies of a whole one once."""
    for name, parameter in model.named_parameters():
        axis = rule_of(name, shape).axis
        if axis is not None and not hasattr(parameter, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(parameter, True, axis, 1)


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
        rule, targets = rule_of(name, shape), hf_names(model, name, shape)
        if name == "output_layer.weight" and shape.tie_embeddings:
            continue  # the last stage's copy of the embedding
        parts = [torch.empty_like(parameter) for _ in range(size)]
        dist.barrier(group=waiting)
        dist.all_gather(parts, parameter.detach().contiguous(), group=group)
        whole = uncut(rule, parts)
        if rule.padded:
            whole = whole[:vocab_size]
        for target, tensor in zip(targets, split(rule, whole, shape)):
            yield target, tensor.contiguous()


def random_weights(shape: Shape, vocab_size: int, init_std: float, seed: int) -> Callable[[str], Tensor]:
    """A reader of random weights: normal with `init_std`, projections into the residual stream scaled by
    1/sqrt(2 num_layers), norms 1. Every tensor's numbers follow from the seed and its name, so that all layouts
    start from the same model."""
    sizes, rules = tensor_sizes(shape, vocab_size), tensor_rules(shape)

    def read(name: str) -> Tensor:
        if rules[name].split == "replicated":  # a norm
            return torch.ones(sizes[name])
        generator = generator_of(f"{seed}/{name}")
        residual = rules[name].split == "row"
        std = init_std / math.sqrt(2 * shape.num_layers) if residual else init_std
        return torch.randn(sizes[name], generator=generator).mul_(std)

    return read


def generator_of(key: str) -> torch.Generator:
    """Random numbers that follow from a text, on every machine."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little"))


def rule_of(name: str, shape: Shape) -> ParamRule:
    """The rule of a parameter of a `LanguageModel`, by its name there, under either kind of linears."""
    kind = name.split(".", 3)[3] if name.startswith("decoder.layers.") else name
    return next(rule for rule in (*TOP, *FAMILIES[shape.family].layer) if kind in (rule.name, rule.fused))


def hf_names(model: torch.nn.Module, name: str, shape: Shape) -> tuple[str, ...]:
    """Hugging Face names of a Megatron parameter, its layer counted over all pipeline stages."""
    if name == "output_layer.weight" and shape.tie_embeddings:
        return (EMBEDDING,)
    names = tuple(rule_of(name, shape).tensors)
    if not name.startswith("decoder.layers."):
        return names
    layer = model.decoder.layers[int(name.split(".")[2])].layer_number - 1
    return tuple(f"model.layers.{layer}.{target}" for target in names)


def join(rule: ParamRule, tensors: list[Tensor], shape: Shape) -> Tensor:
    """Joins the Hugging Face tensors of a parameter."""
    if rule.join == "grouped":
        groups = [tensor.unflatten(0, (shape.num_query_groups, -1)) for tensor in tensors]
        return torch.cat(groups, 1).flatten(0, 1)
    return torch.cat(tensors)


def split(rule: ParamRule, whole: Tensor, shape: Shape) -> list[Tensor]:
    """Undoes `join`."""
    if rule.join == "grouped":
        widths, groups = dimensions(shape, 0), shape.num_query_groups
        rows = [widths[size[0]] // groups for size in rule.tensors.values()]
        return [part.flatten(0, 1) for part in whole.unflatten(0, (groups, -1)).split(rows, 1)]
    return list(whole.chunk(len(rule.tensors)))


def cut(rule: ParamRule, whole: Tensor, size: int) -> list[Tensor]:
    """Cuts a parameter into what each of `size` tensor-parallel ranks holds."""
    if rule.axis is None:
        return [whole] * size
    if rule.axis == 0 and rule.join == "stacked":  # each rank has its part of every tensor
        tensors = whole.chunk(len(rule.tensors))
        return [torch.cat(parts) for parts in zip(*(tensor.chunk(size) for tensor in tensors))]
    return list(whole.chunk(size, rule.axis))


def uncut(rule: ParamRule, parts: list[Tensor]) -> Tensor:
    """Undoes `cut`."""
    if rule.axis is None:
        return parts[0]
    if rule.axis == 0 and rule.join == "stacked":
        tensors = zip(*(part.chunk(len(rule.tensors)) for part in parts))
        return torch.cat([torch.cat(own) for own in tensors])
    return torch.cat(parts, rule.axis)
