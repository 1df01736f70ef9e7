"""Norm, MLP and linear gradients that replace those of Transformer Engine and Apex, and the layer spec."""

from functools import partial
from types import SimpleNamespace

import torch
from megatron.core.fp8_utils import get_fp8_context
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel import layers as megatron_layers
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from perdure.kernels import swiglu
from perdure.kernels.parallel import add_matmul
from perdure.pipeline.model.attention import CoreAttention, TransformerEngineAttention
from perdure.pipeline.model.choices import TRANSFORMER_ENGINE, Choices
from perdure.pipeline.model.shape import Shape


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, whose gradient Megatron sums over the tensor-parallel ranks under sequence parallelism.

    Megatron's own wrapper refuses sequence parallelism.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float):
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel


class GatedMLP(MLP):
    """Megatron's MLP with our SwiGLU."""

    def forward(self, hidden_states, **_kwargs):
        """[sequence, batch, hidden] -> the same, and a bias that is None."""
        return self.linear_fc2(swiglu(self.linear_fc1(hidden_states)[0]))


class RecomputedMLP(GatedMLP):
    """`GatedMLP` that keeps gate and up alone, not their product, which the backward pass computes again."""

    def forward(self, hidden_states, **_kwargs):
        """As `GatedMLP`'s."""
        gate_up = self.linear_fc1(hidden_states)[0]
        if not _has_backward(gate_up):
            return self.linear_fc2(swiglu(gate_up))
        product = CheckpointWithoutOutput(fp8=None)
        outputs = self.linear_fc2(product.checkpoint(swiglu, gate_up))
        product.discard_output_and_register_recompute(outputs[0])
        return outputs


class RecomputedNorm(RMSNorm):
    """`RMSNorm` whose output is dropped when the linear behind it has run, and computed again for that one's backward pass."""

    made: CheckpointWithoutOutput | None = None

    def forward(self, hidden_states):
        """As `RMSNorm`'s."""
        if not _has_backward(hidden_states):
            return super().forward(hidden_states)
        self.made = CheckpointWithoutOutput(fp8=None)
        return self.made.checkpoint(super().forward, hidden_states)

    def drop(self, _linear, _inputs, outputs) -> None:
        """Drops the last output, as a hook after the forward pass of the linear that took it."""
        if self.made is not None:
            self.made.discard_output_and_register_recompute(outputs[0])
            self.made = None


class RecomputedLayer(TransformerLayer):
    """Megatron's layer, of which the backward pass keeps the input alone and computes the rest again.

    Source: Chen et al. 2016 (arXiv 1604.06174).
    """

    def forward(self, hidden_states, *args, **kwargs):
        """As Megatron's."""
        forward = super().forward
        if not _has_backward(hidden_states):
            return forward(hidden_states, *args, **kwargs)

        def run(own: Tensor) -> Tensor:
            # Computed again, it is outside of the context that Megatron's block opens around its layers.
            with get_fp8_context(self.config, self.layer_number - 1):
                return forward(own, *args, **kwargs)[0]

        return _Recomputed.apply(run, hidden_states), None


class _Recomputed(torch.autograd.Function):
    """(run, hidden states) -> run(hidden states), computed again in the backward pass, by a backward pass inside it.

    torch's other checkpoint, without one inside, hands Megatron's linears each weight as a copy without its attributes, so that
    they cannot mark a gradient that is in `main_grad`, which `overlap_grad_reduce` waits for. Megatron's and torch's of this
    kind give the input's gradient another layout in memory than a plain layer does, and matrix products other bits. Megatron's
    takes tensors only, besides, and documents are none. There is no dropout, so that no random state has to be restored.
    """

    @staticmethod
    def forward(ctx, run, hidden_states):
        ctx.run = run
        ctx.save_for_backward(hidden_states)
        return run(hidden_states)

    @staticmethod
    def backward(ctx, grad):
        assert torch.autograd._is_checkpoint_valid()  # not `autograd.grad`, which would leave out the weights
        own, found = ctx.saved_tensors[0].detach().requires_grad_(), list[Tensor]()
        own.register_hook(found.append)
        with torch.enable_grad():
            output = ctx.run(own)
        torch.autograd.backward(output, grad)
        return None, found[0]


def recompute(layer: TransformerLayer, granularity: str) -> None:
    """Lets a layer's backward pass compute again what `parallel.recompute` says, in place.

    `selective` are the parts without a matrix product (Korthikanti et al. 2022, arXiv 2205.05198, section 5, on what is cheap
    beside the memory it takes). Scores of attention, which they name first, are never kept: flash attention computes them again
    itself.
    """
    if granularity == "full":
        layer.__class__ = RecomputedLayer
    elif granularity == "selective":
        layer.mlp.__class__ = RecomputedMLP
        norms = (
            (layer.input_layernorm, layer.self_attention.linear_qkv),
            (layer.pre_mlp_layernorm, layer.mlp.linear_fc1),
        )
        for norm, linear in norms:
            norm.__class__ = RecomputedNorm
            linear.register_forward_hook(norm.drop)


def _has_backward(hidden_states: Tensor) -> bool:
    """Whether a gradient will be asked for: not in evaluation, nor below the first adapter of a frozen model."""
    return torch.is_grad_enabled() and hidden_states.requires_grad


def block_spec(config: TransformerConfig, shape: Shape, choices: Choices) -> TransformerBlockSubmodules:
    """This pipeline stage's layers and the norm after the last one: Megatron's linears or Transformer Engine's, and our norm,
    attention and MLP.

    The same on every machine that has made these choices, whatever else is installed there. Transformer Engine's linears after
    a norm compute it, too; Megatron stores both kinds under the same names.
    """
    if choices.linears == TRANSFORMER_ENGINE:
        layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=shape.qk_norm)
    else:
        layer = _local_layer(shape)
    attention = layer.submodules.self_attention.submodules
    if shape.qk_norm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    core = TransformerEngineAttention if choices.attention == TRANSFORMER_ENGINE else CoreAttention
    attention.core_attention = ModuleSpec(
        core, params={"rotary_base": shape.rope_theta, "rotary_scaling": shape.rope_scaling}
    )
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=RMSNorm
    )


def _local_layer(shape: Shape) -> ModuleSpec:
    layer = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=shape.qk_norm)
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    column_linear, row_linear = megatron_layers.ColumnParallelLinear, megatron_layers.RowParallelLinear
    attention.linear_qkv, attention.linear_proj = column_linear, row_linear
    mlp = layer.submodules.mlp  # a ModuleSpec in 0.16, a functools.partial later
    parts = mlp.keywords["submodules"] if isinstance(mlp, partial) else mlp.submodules
    parts.linear_fc1, parts.linear_fc2 = column_linear, row_linear
    return layer


def install_weight_gradient(device: torch.device) -> bool:
    """Lets Megatron's linears add weight gradients to `main_grad` in float32, which they need Apex for.

    Without it a gradient is made in bf16, rounded, and added by a kernel of its own. Only CUDA has matrix products of
    bf16 into float32; a CPU would have to cast the operands first.

    Returns:
        Whether it does, for `gradient_accumulation_fusion`.
    """
    megatron_layers.fused_weight_gradient_mlp_cuda = SimpleNamespace(
        wgrad_gemm_accum_fp32=add_weight_gradient
    )
    megatron_layers._grad_accum_fusion_available = True
    return device.type == "cuda"


def add_weight_gradient(inputs: Tensor, grad: Tensor, main_grad: Tensor) -> None:
    """main_grad += grad^T inputs: [tokens, in], [tokens, out], float32 [out, in]."""
    add_matmul(main_grad, grad.t(), inputs)
