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
            joined as `perdure.pipeline.model.weights` says.
        defaults: What transformers takes for an entry that `config.json` lacks, of entries that it does not take alike in
            all families.
        only: Flags of `config.json` that can be converted with this value alone, which is also their default.
        nullable: Entries that may be null, beside those of all families.
        layer_types: Whether each layer's kind of attention is read from `layer_types`.
    """

    layer: dict[str, tuple[str, ...]]
    defaults: dict[str, Any]
    only: dict[str, bool] = field(default_factory=dict)
    nullable: frozenset[str] = frozenset()
    layer_types: bool = False

    @property
    def qkv_bias(self) -> bool:
        """Whether the projections to query, key and value have a bias."""
        return QKV_BIAS.keys() <= self.layer.keys()

    @property
    def qk_norm(self) -> bool:
        """Whether every head of query and key is normalised (RMSNorm) before the rotary embedding."""
        return QK_NORM.keys() <= self.layer.keys()


DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
"""What transformers 5 takes for entries that `config.json` lacks, in all families."""
QWEN_DEFAULTS = {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
FAMILIES = {
    "llama": Family(
        LLAMA_LAYER,
        {
            "intermediate_size": 11_008,
            "num_key_value_heads": None,
            "head_dim": None,
            "max_position_embeddings": 2048,
        },
        only={"attention_bias": False, "mlp_bias": False},
        nullable=frozenset({"num_key_value_heads", "head_dim", "attention_dropout"}),
    ),
    "mistral": Family(
        LLAMA_LAYER,
        {
            "intermediate_size": 14_336,
            "num_key_value_heads": 8,
            "head_dim": None,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
        },
        nullable=frozenset({"head_dim", "sliding_window"}),
    ),
    "qwen2": Family(
        LLAMA_LAYER | QKV_BIAS,
        QWEN_DEFAULTS,
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        layer_types=True,
    ),
    "qwen3": Family(
        LLAMA_LAYER | QK_NORM,
        QWEN_DEFAULTS | {"head_dim": 128},
        only={"attention_bias": False},
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        layer_types=True,
    ),
}
"""By the `model_type` of `config.json`."""
