"""The model families that can be converted: for each, one table of what its `config.json` may say and of which Hugging
Face tensors make up each Megatron parameter (no import of torch)."""

from dataclasses import dataclass, field
from typing import Any

TOP = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "output_layer.weight": "lm_head.weight",
}
"""Parameters outside the layers; the same in all families."""

LLAMA_LAYER = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "self_attention.linear_qkv.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight",),
    "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight",),
    "mlp.linear_fc1.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight",),
}
QKV_BIAS = {"self_attention.linear_qkv.bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv")}
QK_NORM = {f"self_attention.{part}_layernorm.weight": (f"self_attn.{part}_norm.weight",) for part in "qk"}


@dataclass(frozen=True)
class Family:
    """A family of decoders with RMSNorm, RoPE, SwiGLU and grouped-query attention.

    Attributes:
        layer: Hugging Face names, within a layer, of the tensors that make up each Megatron parameter; several are
            joined as `perdure.pipeline.convert.weights` says.
        only: Entries of `config.json` that can be converted with this value alone, which is also their default.
        defaults: What transformers takes for an entry that `config.json` lacks.
    """

    layer: dict[str, tuple[str, ...]]
    only: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def qkv_bias(self) -> bool:
        """Whether the projections to query, key and value have a bias."""
        return QKV_BIAS.keys() <= self.layer.keys()

    @property
    def qk_norm(self) -> bool:
        """Whether every head of query and key is normalised (RMSNorm) before the rotary embedding."""
        return QK_NORM.keys() <= self.layer.keys()


FAMILIES = {
    "llama": Family(LLAMA_LAYER, only={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}),
    "mistral": Family(
        LLAMA_LAYER,
        only={"hidden_act": "silu"},
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "qwen2": Family(
        LLAMA_LAYER | QKV_BIAS,
        only={"hidden_act": "silu"},
        defaults={"num_key_value_heads": 32, "vocab_size": 151_936, "use_sliding_window": False},
    ),
    "qwen3": Family(
        LLAMA_LAYER | QK_NORM,
        only={"hidden_act": "silu", "attention_bias": False},
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "vocab_size": 151_936,
            "use_sliding_window": False,
        },
    ),
}
"""By the `model_type` of `config.json`."""
