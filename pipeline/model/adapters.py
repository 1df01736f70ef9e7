"""LoRA: low-rank matrices beside Megatron's linear layers, and how they join the weights.

W acts as W + (alpha / r) B A (Hu et al. 2021, arXiv 2106.09685). Megatron's linears hold several Hugging Face modules (query,
key and value; gate and up), adapters are of one each: so A and B are kept by Hugging Face module and joined as the weights are.

A linear that is split by columns has whole A and its rows of B; one that is split by rows has its columns of A and whole B.
Low-rank activations, not whole ones, cross the tensor-parallel ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import megatron.core.parallel_state as mpu
import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

from perdure.pipeline.model.adapter_sizes import adapted, module_of
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.parameters import ParamRule
from perdure.pipeline.model.shape import Shape, dimensions
from perdure.pipeline.model.weights import generator_of
from perdure.pipeline.recipe import LoRA


@dataclass(frozen=True)
class Joint:
    """How the adapters of one Megatron linear join.

    Attributes:
        modules: The Hugging Face modules of the linear, in order, each with the rows of its outputs on this rank.
        names: Hugging Face name of each module that has an adapter, by its last part.
        groups: Query groups on this rank, whose rows lie together; 1 if modules lie one below the other.
        rank: r.
        scale: alpha / r.
    """

    modules: dict[str, int]
    names: dict[str, str]
    groups: int
    rank: int
    scale: float


class AdaptedLinear(nn.Module):
    """What both kinds of linear with adapters share; `lora_A` and `lora_B` hold a matrix for each Hugging Face module."""

    joint: Joint
    weight: Tensor
    lora_A: nn.ParameterDict
    lora_B: nn.ParameterDict

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [n r, in] and B [out, n r] of all n adapters of this linear, as this rank holds them: B A is laid out as the
        weight."""
        joint, number = self.joint, len(self.lora_A)
        places = {module: place for place, module in enumerate(self.lora_A)}
        blocks = []
        for module, rows in joint.modules.items():
            if module in places:
                before = places[module] * joint.rank
                after = (number - 1) * joint.rank - before
                block = F.pad(self.lora_B[module], (before, after))
            else:
                block = self.weight.new_zeros(rows, number * joint.rank)
            blocks.append(block.unflatten(0, (joint.groups, -1)))
        return torch.cat(list(self.lora_A.values())), torch.cat(blocks, 1).flatten(0, 1)


class AdaptedColumnLinear(AdaptedLinear, ColumnParallelLinear):
    """Megatron's linear, split by columns, with adapters."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """[sequence, batch, in] -> this rank's [sequence, batch, out / tp], and the bias."""
        output, bias = super().forward(input_, *args, **kwargs)
        down, up = self.factors()
        low = input_ @ down.t() * self.joint.scale
        if self.sequence_parallel:
            low = gather_from_sequence_parallel_region(low, group=self.tp_group)
        else:
            low = copy_to_tensor_model_parallel_region(low, group=self.tp_group)
        return output + low @ up.t(), bias

    def sharded_state_dict(self, prefix="", sharded_offsets=(), metadata=None):
        """The weight, the bias and each B are cut along their rows; each A is whole."""
        state = self.state_dict(prefix="", keep_vars=True)
        axes = {name: 0 for name in state if not name.startswith("lora_A")}
        return _sharded(self, state, axes, prefix, sharded_offsets, metadata)


class AdaptedRowLinear(AdaptedLinear, RowParallelLinear):
    """Megatron's linear, split by rows, with adapters."""

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """This rank's [sequence, batch, in / tp] -> [sequence, batch, out], under sequence parallelism its part; and the
        bias."""
        output, bias = super().forward(input_)
        down, up = self.factors()
        low = input_ @ down.t() * self.joint.scale
        if self.sequence_parallel:
            low = reduce_scatter_to_sequence_parallel_region(low, group=self.tp_group)
        else:
            low = reduce_from_tensor_model_parallel_region(low, group=self.tp_group)
        return output + low @ up.t(), bias

    def sharded_state_dict(self, prefix="", sharded_offsets=(), metadata=None):
        """The weight and each A are cut along their columns; bias and each B are whole."""
        state = self.state_dict(prefix="", keep_vars=True)
        axes = {name: 1 for name in state if name == "weight" or name.startswith("lora_A")}
        return _sharded(self, state, axes, prefix, sharded_offsets, metadata)


def _sharded(linear, state: dict, axes: dict[str, int], prefix: str, offsets: tuple, metadata: dict) -> dict:
    group, replicas = linear.tp_group, metadata["dp_cp_group"]
    return make_sharded_tensors_for_checkpoint(
        state, prefix, axes, offsets, tp_group=group, dp_cp_group=replicas
    )


def add_adapters(model: nn.Module, shape: Shape, adapter: LoRA, seed: int) -> None:
    """Freezes all parameters and puts adapters beside the linears, in place: B is 0 and A follows from the seed.

    Before DDP and the optimizer are made, so that frozen parameters have neither gradient buffers nor optimizer states.

    Args:
        model: An unwrapped `LanguageModel`, on its device.
        shape: Its shape.
        adapter: What to add.
        seed: The recipe's.
    """
    model.requires_grad_(False)
    for layer in model.decoder.layers:
        for rule in FAMILIES[shape.family].layer:
            if names := adapted(rule, adapter):
                linear = layer.get_submodule(rule.name.removesuffix(".weight"))
                prefix = f"model.layers.{layer.layer_number - 1}."
                full = {module_of(name): prefix + name.removesuffix(".weight") for name in names}
                _adapt(linear, rule, shape, adapter, full, seed)


def _adapt(
    linear: nn.Module, rule: ParamRule, shape: Shape, adapter: LoRA, names: dict[str, str], seed: int
) -> None:
    parallel, rank = mpu.get_tensor_model_parallel_world_size(), mpu.get_tensor_model_parallel_rank()
    column, widths = rule.split == "column", dimensions(shape, 0)
    rows = {
        module_of(name): widths[size[0]] // (parallel if column else 1) for name, size in rule.tensors.items()
    }
    groups = shape.num_query_groups // parallel if rule.join == "grouped" else 1
    linear.__class__ = AdaptedColumnLinear if column else AdaptedRowLinear
    linear.joint = Joint(rows, names, groups, adapter.rank, adapter.scale)
    linear.lora_A, linear.lora_B = nn.ParameterDict(), nn.ParameterDict()
    inputs = linear.weight.shape[1] * (1 if column else parallel)
    for module, name in names.items():
        whole = initial_matrix(adapter, inputs, "/".join([str(seed), *adapter.orthogonal_to, name]))
        own = whole if column else whole.chunk(parallel, 1)[rank]
        down = nn.Parameter(own.to(linear.weight).contiguous())
        up = nn.Parameter(linear.weight.new_zeros(rows[module], adapter.rank))
        cut, whole_one, axis = (up, down, 0) if column else (down, up, 1)
        set_tensor_model_parallel_attributes(cut, True, axis, 1)
        # Each rank sees its part of the sequence: Megatron adds up the gradients of what is marked so.
        whole_one.sequence_parallel = linear.sequence_parallel
        linear.lora_A[module], linear.lora_B[module] = down, up


def initial_matrix(adapter: LoRA, inputs: int, key: str) -> Tensor:
    """A before training, float32 [r, inputs]: Kaiming-uniform as PEFT has it, in +-1/sqrt(inputs).

    The key is of the recipe's seed and the module's Hugging Face name, so that every layout starts from the same matrix; and of
    the adapters that this one is to be orthogonal to: a second adapter of one seed would else start in the rows of the first.
    """
    values = torch.rand(adapter.rank, inputs, generator=generator_of(f"{key}.lora_A"))
    return (2 * values - 1) / inputs**0.5


def adapted_linears(model: nn.Module) -> Iterator[AdaptedLinear]:
    """The linears with adapters of an unwrapped model, this stage's, from the first layer on."""
    return (module for module in model.modules() if isinstance(module, AdaptedLinear))


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Adds B A to the weights, in fp32 and rounded once, and takes the adapters away: the model is an ordinary one again."""
    for linear in list(adapted_linears(model)):
        down, up = linear.factors()
        product = up.float() @ down.float() * linear.joint.scale
        linear.weight.copy_(linear.weight.float() + product)
        del linear.lora_A, linear.lora_B, linear.joint
        column = isinstance(linear, ColumnParallelLinear)
        linear.__class__ = ColumnParallelLinear if column else RowParallelLinear
