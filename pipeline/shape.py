"""The shape of a Llama-family model, from the recipe or from a Hugging Face `config.json` (no import of torch)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import read_json
from perdure.pipeline.recipe import LlamaModel, Recipe

VOCAB_MULTIPLE = 128
"""The vocabulary is padded to a multiple of this, whatever the layout, so that layouts share checkpoints."""

FAMILIES = ("llama",)
"""Hugging Face `model_type`s whose weights can be converted."""


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
    return config_shape(model.path)


def config_shape(directory: Path) -> Shape:
    """Shape that a Hugging Face directory's `config.json` describes; defaults are those of transformers' Llama.

    Raises:
        PerdureError: If the config is missing, broken, or of something we cannot convert.
    """
    path = directory / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or config.get("model_type") not in FAMILIES:
        found = config.get("model_type") if isinstance(config, dict) else None
        raise PerdureError(f"{path}: model_type is {found!r}; should be {' or '.join(FAMILIES)}")
    for key, only in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if config.get(key, only) != only:
            raise PerdureError(f"{path}: {key} is {config[key]!r}; only {only!r} can be converted")
    # transformers 5 writes `rope_parameters`; before, `rope_theta` and `rope_scaling` stood side by side.
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise PerdureError(f"{path}: rotary scaling {kind!r} is not supported; only 'default' is")
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Shape(
            num_layers=int(config["num_hidden_layers"]),
            hidden_size=hidden,
            ffn_hidden_size=int(config["intermediate_size"]),
            num_attention_heads=heads,
            num_query_groups=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        )
    except KeyError as error:
        raise PerdureError(f"{path}: {error.args[0]} is missing") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise PerdureError(f"{path}: not a Llama config ({error})") from None


def config_vocab_size(directory: Path) -> int:
    """Rows of the embedding that a Hugging Face directory's `config.json` states; transformers' default if none."""
    return int(read_json(directory / "config.json").get("vocab_size", 32_000))


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of the embedding: the tokenizer's size rounded up to a multiple of `VOCAB_MULTIPLE`."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def num_parameters(shape: Shape, vocab: int) -> int:
    """Parameters of a model whose embedding has `vocab` rows (padded or not: the caller's choice)."""
    query, key_value = shape.num_attention_heads * shape.head_dim, shape.num_query_groups * shape.head_dim
    embeddings = vocab * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    attention = shape.hidden_size * (2 * query + 2 * key_value)
    ffn = 3 * shape.hidden_size * shape.ffn_hidden_size
    norms = 2 * shape.hidden_size
    return embeddings + shape.num_layers * (attention + ffn + norms) + shape.hidden_size
