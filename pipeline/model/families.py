"""The model families that can be converted: for each, what its `config.json` may say and which kinds of parameters its
layers have (no import of torch).

A family like Llama is added here alone: an entry of `FAMILIES`, with rules of its own (`parameters.ParamRule`) where its
tensors have other names.
"""

from dataclasses import dataclass, field
from typing import Any

from perdure.pipeline.model.parameters import LLAMA_LAYER, QK_NORM, QKV_BIAS, ParamRule


@dataclass(frozen=True)
class Family:
    """A family of decoders with RMSNorm, RoPE, SwiGLU and grouped-query attention.

    Attributes:
        layer: Parameters of a layer.
        defaults: What transformers takes for an entry that `config.json` lacks, of entries that it does not take alike in
            all families.
        only: Flags of `config.json` that can be converted with this value alone, which is also their default.
        nullable: Entries that may be null, beside those of all families.
        layer_types: Whether each layer's kind of attention is read from `layer_types`.
    """

    layer: tuple[ParamRule, ...]
    defaults: dict[str, Any]
    only: dict[str, bool] = field(default_factory=dict)
    nullable: frozenset[str] = frozenset()
    layer_types: bool = False

    @property
    def qkv_bias(self) -> bool:
        """Whether the projections to query, key and value have a bias."""
        return all(rule in self.layer for rule in QKV_BIAS)

    @property
    def qk_norm(self) -> bool:
        """Whether every head of query and key is normalised (RMSNorm) before the rotary embedding."""
        return all(rule in self.layer for rule in QK_NORM)


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
        LLAMA_LAYER + QKV_BIAS,
        QWEN_DEFAULTS,
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        layer_types=True,
    ),
    "qwen3": Family(
        LLAMA_LAYER + QK_NORM,
        QWEN_DEFAULTS | {"head_dim": 128},
        only={"attention_bias": False},
        nullable=frozenset({"num_key_value_heads", "sliding_window"}),
        layer_types=True,
    ),
}
"""By the `model_type` of `config.json`."""
