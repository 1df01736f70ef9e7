"""The shape of a model, from the recipe or from a Hugging Face `config.json` (no import of torch)."""

import re
from dataclasses import dataclass
from pathlib import Path

from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.config import read_config
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.files import heads_differ
from perdure.pipeline.model.parameters import HEAD, TOP, Dimension, ParamRule
from perdure.pipeline.recipe import LlamaModel, Recipe, StatedShape

VOCAB_MULTIPLE = 128
"""The vocabulary is padded to a multiple of this, whatever the layout, so that layouts share checkpoints."""


@dataclass(frozen=True)
class Llama3Scaling:
    """How Llama 3.1 stretches rotary embeddings: slow frequencies divided, fast ones kept, a ramp between.

    Attributes:
        factor: What slow frequencies are divided by.
        low_freq_factor: Wavelengths above `original_length / low_freq_factor` are slow.
        high_freq_factor: Wavelengths below `original_length / high_freq_factor` are fast.
        original_length: Tokens of context before the stretching.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with RMSNorm, RoPE, SwiGLU and grouped-query attention.

    Attributes:
        num_layers: Transformer layers.
        hidden_size: Width of the residual stream.
        ffn_hidden_size: Width of the SwiGLU block.
        num_attention_heads: Query heads.
        num_query_groups: Key-value heads.
        head_dim: Width of one head.
        tie_embeddings: Whether input embedding and output projection are one matrix.
        rope_theta: Base of the rotary position embedding.
        norm_epsilon: Epsilon of RMSNorm.
        family: Its Hugging Face `model_type`.
        qkv_bias: Whether the projections to query, key and value have a bias.
        qk_norm: Whether the heads of query and key are normalised.
        rope_scaling: Stretching of the rotary position embedding.
        sliding_window: Tokens that a token attends to; None for all.
    """

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    tie_embeddings: bool
    rope_theta: float
    norm_epsilon: float
    family: str = "llama"
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_scaling: Llama3Scaling | None = None
    sliding_window: int | None = None


def model_shape(recipe: Recipe) -> Shape:
    """Shape of the recipe's model.

    Raises:
        PerdureError: If a Hugging Face model's config is missing, broken, or of something we cannot convert.
    """
    model = recipe.model
    if isinstance(model, LlamaModel):
        return Shape(
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            ffn_hidden_size=model.ffn_hidden_size,
            num_attention_heads=model.num_attention_heads,
            num_query_groups=model.num_query_groups,
            head_dim=model.hidden_size // model.num_attention_heads,
            tie_embeddings=model.tie_embeddings,
            rope_theta=model.rope_theta,
            norm_epsilon=model.norm_epsilon,
        )
    if model.shape is not None and not (model.path / "config.json").is_file():
        return _stated_shape(model.shape)
    return config_shape(model.path)


def _stated_shape(stated: StatedShape) -> Shape:
    """Sizes alone; nothing can be trained with it, as the directory is not there."""
    return Shape(
        num_layers=stated.num_layers,
        hidden_size=stated.hidden_size,
        ffn_hidden_size=stated.ffn_hidden_size,
        num_attention_heads=stated.num_attention_heads,
        num_query_groups=stated.num_query_groups,
        head_dim=stated.head_dim or stated.hidden_size // stated.num_attention_heads,
        tie_embeddings=stated.tie_embeddings,
        rope_theta=10_000.0,
        norm_epsilon=1e-5,
    )


def config_shape(directory: Path) -> Shape:
    """Shape of the model that transformers makes of a Hugging Face directory.

    Raises:
        PerdureError: If its config or a file of weights is broken, or of something we cannot convert.
    """
    config = read_config(directory / "config.json")
    family, llama3 = FAMILIES[config["model_type"]], config["rope_llama3"]
    return Shape(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"],
        num_attention_heads=config["num_attention_heads"],
        num_query_groups=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        tie_embeddings=config["tie_word_embeddings"] and not heads_differ(directory),
        rope_theta=float(config["rope_theta"]),
        norm_epsilon=config["rms_norm_eps"],
        family=config["model_type"],
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope_scaling=Llama3Scaling(
            float(llama3[0]), float(llama3[1]), float(llama3[2]), original_length=int(llama3[3])
        )
        if llama3
        else None,
        sliding_window=config["window"],
    )


def config_vocab_size(directory: Path) -> int:
    """Rows of the embedding that a Hugging Face directory's `config.json` states; transformers' default if none.

    Raises:
        PerdureError: If the config is missing, broken, or of no family that can be converted.
    """
    return read_config(directory / "config.json")["vocab_size"]


def max_positions(directory: Path) -> int | None:
    """Positions up to which a Hugging Face directory's `config.json` says that the model works; None if it says nothing.

    What a stretched rotary embedding reaches counts (YaRN, Llama 3.1, linear and dynamic scaling).

    Raises:
        PerdureError: If the config is missing or broken.
    """
    config = read_json(directory / "config.json")
    config = config.get("text_config", config)
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if positions is None:
        return None
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    original = rope.get("original_max_position_embeddings") or positions
    return max(int(positions), int((rope.get("factor") or 1) * original))


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of the embedding: the tokenizer's size rounded up to a multiple of `VOCAB_MULTIPLE`."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def dimensions(shape: Shape, vocab_size: int) -> dict[Dimension, int]:
    """The widths that sizes of parameters are made of."""
    return {
        "vocab": vocab_size,
        "hidden": shape.hidden_size,
        "ffn": shape.ffn_hidden_size,
        "query": shape.num_attention_heads * shape.head_dim,
        "key_value": shape.num_query_groups * shape.head_dim,
        "head": shape.head_dim,
    }


def top_rules(shape: Shape) -> tuple[ParamRule, ...]:
    """Parameters outside the layers; with tied embeddings the output projection is none of its own."""
    return tuple(rule for rule in TOP if not (shape.tie_embeddings and HEAD in rule.tensors))


def tensor_rules(shape: Shape) -> dict[str, ParamRule]:
    """The rule of every Hugging Face tensor of a model, by the tensor's name."""
    found = {name: rule for rule in top_rules(shape) for name in rule.tensors}
    for layer in range(shape.num_layers):
        for rule in FAMILIES[shape.family].layer:
            found |= {f"model.layers.{layer}.{name}": rule for name in rule.tensors}
    return found


def tensor_sizes(shape: Shape, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Names and sizes of a model's Hugging Face tensors."""
    widths, layer = dimensions(shape, vocab_size), re.compile(r"^model\.layers\.\d+\.")
    return {
        name: tuple(widths[width] for width in rule.tensors[layer.sub("", name)])
        for name, rule in tensor_rules(shape).items()
    }


def num_parameters(shape: Shape, vocab: int) -> int:
    """Parameters of a model whose embedding has `vocab` rows (padded or not: the caller's choice)."""
    widths = dimensions(shape, vocab)
    layer = sum(rule.count(widths) for rule in FAMILIES[shape.family].layer)
    return sum(rule.count(widths) for rule in top_rules(shape)) + shape.num_layers * layer


def flops_per_token(shape: Shape, vocab_size: int, seq_length: int) -> float:
    """Forward and backward FLOPs per token: 6 per matrix weight, and causal attention (Chowdhery et al. 2022, app. B)."""
    matrices = num_parameters(shape, vocab_size) - (
        0 if shape.tie_embeddings else vocab_size * shape.hidden_size
    )
    return 6 * matrices + 6 * shape.num_layers * shape.num_attention_heads * shape.head_dim * seq_length
