"""Norm, MLP and linear gradients that replace those of Transformer Engine and Apex, and the layer spec."""

from functools import partial
from types import SimpleNamespace

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import layers as megatron_layers
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perdure.kernels import swiglu
from perdure.kernels.parallel import add_matmul
from perdure.pipeline.model.attention import CoreAttention
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


class RecomputedLayer(TransformerLayer):
    """Megatron's layer, of which the backward pass keeps the input alone and computes the rest again.

    torch's checkpoint, since Megatron's takes tensors only, and the lengths of documents are none. There is no dropout,
    so that no random state has to be restored. Source: Chen et al. 2016 (arXiv 1604.06174).
    """

    def forward(self, *args, **kwargs):
        """As Megatron's."""
        return checkpoint(super().forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def block_spec(config: TransformerConfig, shape: Shape) -> TransformerBlockSubmodules:
    """This pipeline stage's layers and the norm after the last one: Megatron's linears, and our norm, attention and MLP.

    The same on every machine, whether or not Transformer Engine is installed there.
    """
    layer = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=shape.qk_norm)
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    attention = layer.submodules.self_attention.submodules
    column_linear, row_linear = megatron_layers.ColumnParallelLinear, megatron_layers.RowParallelLinear
    attention.linear_qkv, attention.linear_proj = column_linear, row_linear
    if shape.qk_norm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    attention.core_attention = ModuleSpec(
        CoreAttention, params={"rotary_base": shape.rope_theta, "rotary_scaling": shape.rope_scaling}
    )
    mlp = layer.submodules.mlp  # a ModuleSpec in 0.16, a functools.partial later
    parts = mlp.keywords["submodules"] if isinstance(mlp, partial) else mlp.submodules
    parts.linear_fc1, parts.linear_fc2 = column_linear, row_linear
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=RMSNorm
    )


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
