"""Kinds of parameters: one table of their names, sizes, how Hugging Face tensors join in one, and how ranks share it.

Conversion (`weights`), sizes and counts (`shape`) and memory per rank follow from this table (no import of torch). A family
(`families`) is a choice of its rows.
"""

import math
from dataclasses import dataclass
from typing import Literal

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""Hugging Face names of the input embedding and the output projection."""
Dimension = Literal["vocab", "hidden", "ffn", "query", "key_value", "head"]
"""Width of the vocabulary, the residual stream, the SwiGLU block, all query heads, all key or value heads, one head."""


@dataclass(frozen=True)
class ParamRule:
    """One kind of parameter.

    Attributes:
        name: Megatron's name; of a parameter in a layer, what comes after `decoder.layers.N.`.
        tensors: Hugging Face tensors that it is made of, in order, each with its dimensions. Of a parameter in a layer,
            what comes after `model.layers.N.` in their names.
        split: What each tensor-parallel rank holds. `column`: some of the outputs, which are rows of the tensor; `row`: some of
            the inputs, which are its columns; `replicated`: all. Matrices whose outputs are added to the residual stream
            are split by `row`, and nothing else is.
        join: How several tensors become one. `stacked`: one below the other, all of one size; a rank holds its share of
            each. `grouped`: the rows of each query group together; a rank holds whole groups.
        fused: Its name where Transformer Engine computes it together with the linear after it; None if it never does.
    """

    name: str
    tensors: dict[str, tuple[Dimension, ...]]
    split: Literal["column", "row", "replicated"]
    join: Literal["stacked", "grouped"] = "stacked"
    fused: str | None = None

    @property
    def axis(self) -> int | None:
        """Dimension along which tensor-parallel ranks cut the parameter; None if each holds all."""
        return {"column": 0, "row": 1, "replicated": None}[self.split]

    @property
    def padded(self) -> bool:
        """Whether its rows are those of the vocabulary, which is padded."""
        return any(size[0] == "vocab" for size in self.tensors.values())

    @property
    def is_matrix(self) -> bool:
        """Whether it is multiplied by, unlike norms and biases."""
        return all(len(size) == 2 for size in self.tensors.values())

    def count(self, dimensions: dict[Dimension, int], tensor_parallel: int = 1) -> int:
        """Numbers of it that one tensor-parallel rank holds."""
        whole = sum(math.prod(dimensions[name] for name in size) for size in self.tensors.values())
        return whole if self.axis is None else whole // tensor_parallel


TOP = (
    ParamRule("embedding.word_embeddings.weight", {EMBEDDING: ("vocab", "hidden")}, "column"),
    ParamRule("decoder.final_layernorm.weight", {"model.norm.weight": ("hidden",)}, "replicated"),
    ParamRule("output_layer.weight", {HEAD: ("vocab", "hidden")}, "column"),
)
"""Parameters outside the layers; the same in all families."""

LLAMA_LAYER = (
    ParamRule(
        "input_layernorm.weight",
        {"input_layernorm.weight": ("hidden",)},
        "replicated",
        fused="self_attention.linear_qkv.layer_norm_weight",
    ),
    ParamRule(
        "self_attention.linear_qkv.weight",
        {
            "self_attn.q_proj.weight": ("query", "hidden"),
            "self_attn.k_proj.weight": ("key_value", "hidden"),
            "self_attn.v_proj.weight": ("key_value", "hidden"),
        },
        "column",
        "grouped",
    ),
    ParamRule("self_attention.linear_proj.weight", {"self_attn.o_proj.weight": ("hidden", "query")}, "row"),
    ParamRule(
        "pre_mlp_layernorm.weight",
        {"post_attention_layernorm.weight": ("hidden",)},
        "replicated",
        fused="mlp.linear_fc1.layer_norm_weight",
    ),
    ParamRule(
        "mlp.linear_fc1.weight",
        {"mlp.gate_proj.weight": ("ffn", "hidden"), "mlp.up_proj.weight": ("ffn", "hidden")},
        "column",
    ),
    ParamRule("mlp.linear_fc2.weight", {"mlp.down_proj.weight": ("hidden", "ffn")}, "row"),
)
"""Parameters of a layer that all families have."""
QKV_BIAS = (
    ParamRule(
        "self_attention.linear_qkv.bias",
        {
            "self_attn.q_proj.bias": ("query",),
            "self_attn.k_proj.bias": ("key_value",),
            "self_attn.v_proj.bias": ("key_value",),
        },
        "column",
        "grouped",
    ),
)
QK_NORM = (
    ParamRule("self_attention.q_layernorm.weight", {"self_attn.q_norm.weight": ("head",)}, "replicated"),
    ParamRule("self_attention.k_layernorm.weight", {"self_attn.k_norm.weight": ("head",)}, "replicated"),
)
