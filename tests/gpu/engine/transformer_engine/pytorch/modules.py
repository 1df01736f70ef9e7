"""Linears, norms and attention."""

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer_engine.pytorch.fp8 import FP8GlobalStateManager

CALLS: list[dict[str, Any]] = []
"""What was computed, in order."""
LINEAR = """sequence_parallel fuse_wgrad_accumulation tp_group tp_size get_rng_state_tracker init_method bias return_bias
params_dtype parallel_mode device rng_tracker_name ub_name""".split()
ATTENTION = """num_gqa_groups attention_dropout attn_mask_type sequence_parallel tp_size get_rng_state_tracker tp_group
layer_number attention_type softmax_scale""".split()
FORWARD = """qkv_format attn_mask_type cu_seqlens_q cu_seqlens_kv cu_seqlens_q_padded cu_seqlens_kv_padded max_seqlen_q
max_seqlen_kv""".split()
"""Arguments that the real modules have, of those that Megatron gives."""


def require_known(options: dict, names: list[str]) -> None:
    """Raises TypeError for an argument that a module has not."""
    if unknown := set(options) - set(names):
        raise TypeError(f"unknown arguments: {unknown}")


class Product(torch.autograd.Function):
    """x W^T, whose weight's gradient goes into `main_grad` if it is fused, and a dummy into `grad`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, fused: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight = weight if fused else None
        return x @ weight.t()

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grads, inputs = grad.flatten(0, 1), x.flatten(0, 1)
        if ctx.weight is None:
            return grad @ weight, grads.t() @ inputs, None
        ctx.weight.main_grad.add_(grads.float().t() @ inputs.float())
        ctx.weight.grad_added_to_main_grad = True
        return grad @ weight, torch.full_like(weight, torch.nan), None


class Base(nn.Module):
    """What all modules share."""

    def get_extra_state(self) -> Tensor:
        """Bytes of a pickle, in the real one."""
        return torch.zeros(5, dtype=torch.uint8)

    def set_extra_state(self, state) -> None:
        """Nobody should hand pickles back."""
        raise AssertionError(state)


class Linear(Base):
    """A linear, split by columns or rows."""

    def __init__(self, in_features, out_features, **options):
        require_known(options, LINEAR)
        super().__init__()
        parallel_mode, tp_size, bias = options["parallel_mode"], options["tp_size"], options["bias"]
        self.fused, self.tp_group = options["fuse_wgrad_accumulation"], options["tp_group"]
        self.sequence_parallel, self.save_original_input = options["sequence_parallel"], False
        self.parallel_mode, self.tp_size, self.use_bias = parallel_mode, tp_size, bias
        self.in_features = in_features // (tp_size if parallel_mode == "row" else 1)
        self.out_features = out_features // (tp_size if parallel_mode == "column" else 1)
        made = {"dtype": options["params_dtype"], "device": options["device"]}
        self.weight = nn.Parameter(torch.empty(self.out_features, self.in_features, **made))
        # As the real one marks it.
        self.weight.tensor_model_parallel, self.weight.partition_stride = True, 1
        self.weight.partition_dim = 1 if parallel_mode == "row" else 0
        if bias:
            self.bias = nn.Parameter(torch.zeros(self.out_features, **made))

    def forward(self, x: Tensor, is_first_microbatch=None) -> Tensor:
        """[sequence, batch, in] -> [sequence, batch, out], with the collectives of its kind."""
        from megatron.core.tensor_parallel import mappings  # which imports this package

        recipe, group = FP8GlobalStateManager.get_fp8_recipe(), FP8GlobalStateManager.group
        told = {name: getattr(recipe, name, None) for name in ("amax_history_len", "amax_compute_algo")}
        if recipe:
            told |= {"format": recipe.fp8_format.name, "ranks": group and group.size()}
        CALLS.append(
            {
                "module": type(self).__name__,
                "fp8": recipe and type(recipe).__name__,
                "scales": told if recipe else None,
                "autocast": FP8GlobalStateManager.entered,
                "first": is_first_microbatch,
                "grad": torch.is_grad_enabled(),
                "tokens": x.shape[0] * x.shape[1],
            }
        )
        if self.parallel_mode == "column":
            if self.sequence_parallel:
                x = mappings.gather_from_sequence_parallel_region(x, group=self.tp_group)
            else:
                x = mappings.copy_to_tensor_model_parallel_region(x, group=self.tp_group)
        y = Product.apply(x, self.weight, self.fused)
        if self.parallel_mode == "row":
            if self.sequence_parallel:
                y = mappings.reduce_scatter_to_sequence_parallel_region(y, group=self.tp_group)
            else:
                y = mappings.reduce_from_tensor_model_parallel_region(y, group=self.tp_group)
        return y + self.bias if self.use_bias else y


class LayerNormLinear(Linear):
    """RMSNorm, and a linear that is split by columns."""

    def __init__(self, in_features, out_features, *, eps, normalization, **options):
        assert normalization == "RMSNorm" and not options.pop("zero_centered_gamma")
        assert not options.pop("return_layernorm_output")
        super().__init__(in_features, out_features, **options)
        made = {"dtype": options["params_dtype"], "device": options["device"]}
        self.eps, self.layer_norm_weight = eps, nn.Parameter(torch.ones(in_features, **made))
        self.layer_norm_weight.sequence_parallel = self.sequence_parallel

    def forward(self, x: Tensor, is_first_microbatch=None) -> Tensor:
        """As Linear, of the normalised input."""
        norm = F.rms_norm(x, (self.in_features,), self.layer_norm_weight, self.eps)
        return super().forward(norm, is_first_microbatch)


class DotProductAttention(Base):
    """Causal attention."""

    def __init__(self, num_attention_heads, kv_channels, **options):
        require_known(options, ATTENTION)
        super().__init__()
        assert options["attn_mask_type"] == "causal" and options["attention_dropout"] == 0.0
        self.deterministic = os.environ.get("NVTE_ALLOW_NONDETERMINISTIC_ALGO") == "0"

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attention_mask=None, **options) -> Tensor:
        """[sequence, batch, heads, width] or, packed, [tokens, heads, width] -> the same, heads side by side."""
        require_known(options, FORWARD)
        qkv_format = options.get("qkv_format", "sbhd")
        assert attention_mask is None
        assert options["attn_mask_type"] == ("causal" if qkv_format == "sbhd" else "padding_causal")
        CALLS.append(
            {
                "module": type(self).__name__,
                "format": qkv_format,
                "deterministic": self.deterministic,
                "grad": torch.is_grad_enabled(),
            }
        )
        if qkv_format == "sbhd":
            parts = (x.permute(1, 2, 0, 3) for x in (query, key, value))
            return (
                F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
                .permute(2, 0, 1, 3)
                .flatten(2)
            )
        ends = options["cu_seqlens_q"]
        lengths = ends.diff().tolist()
        assert (
            max(lengths) == options["max_seqlen_q"] == options["max_seqlen_kv"] and ends.dtype == torch.int32
        )
        documents = zip(*(x.transpose(0, 1)[None].split(lengths, 2) for x in (query, key, value)))
        found = [
            F.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)[0] for part in documents
        ]
        return torch.cat(found, 1).transpose(0, 1).flatten(1)


class RMSNorm(Base):
    """Never made: norms that no linear follows are ours."""


class LayerNorm(Base):
    """Never made."""


class GroupedLinear(Base):
    """Never made: there are no experts."""
