"""The shape of a model, from the recipe or from a Hugging Face `config.json` (no import of torch)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.pipeline.convert.families import FAMILIES, TOP
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import read_json
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
    """Shape that a Hugging Face directory's `config.json` describes; defaults are those of transformers.

    Raises:
        PerdureError: If the config is missing, broken, or of something we cannot convert.
    """
    path = directory / "config.json"
    config = _config(path)
    family = FAMILIES[config["model_type"]]
    for key, only in family.only.items():
        if config.get(key, only) != only:
            raise PerdureError(f"{path}: {key} is {config[key]!r}; only {only!r} can be converted")
    if config.get("quantization_config"):
        raise PerdureError(f"{path}: the weights are quantised; save the model in fp32 or bf16")
    # transformers 5 writes `rope_parameters`; before, `rope_theta` and `rope_scaling` stood side by side.
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
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
            family=config["model_type"],
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            rope_scaling=_rope_scaling(path, rope, config),
            sliding_window=config.get("sliding_window") if config.get("use_sliding_window", True) else None,
        )
    except KeyError as error:
        raise PerdureError(f"{path}: {error.args[0]} is missing") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise PerdureError(f"{path}: not the config of a {config['model_type']} model ({error})") from None


def _rope_scaling(path: Path, rope: dict, config: dict) -> Llama3Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if kind not in ("default", "llama3") or share != 1.0:
        what = f"rotary scaling {kind!r}" if share == 1.0 else f"partial_rotary_factor {share}"
        raise PerdureError(
            f"{path}: {what} is not supported; only 'default' and 'llama3', over whole heads, are"
        )
    if kind == "default":
        return None
    return Llama3Scaling(
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
        int(rope["original_max_position_embeddings"]),
    )


def _config(path: Path) -> dict:
    """`config.json` with its family's defaults filled in."""
    config = read_json(path)
    if not isinstance(config, dict) or config.get("model_type") not in FAMILIES:
        found = config.get("model_type") if isinstance(config, dict) else None
        raise PerdureError(f"{path}: model_type is {found!r}; should be {' or '.join(FAMILIES)}")
    return {"vocab_size": 32_000} | FAMILIES[config["model_type"]].defaults | config


def config_vocab_size(directory: Path) -> int:
    """Rows of the embedding that a Hugging Face directory's `config.json` states; transformers' default if none.

    Raises:
        PerdureError: If the config is missing, broken, or of no family that can be converted.
    """
    return int(_config(directory / "config.json")["vocab_size"])


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
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original = rope.get("original_max_position_embeddings") or positions
    return max(int(positions), int((rope.get("factor") or 1) * original))


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of the embedding: the tokenizer's size rounded up to a multiple of `VOCAB_MULTIPLE`."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def tensor_sizes(shape: Shape, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Names and sizes of a model's Hugging Face tensors."""
    hidden, ffn = shape.hidden_size, shape.ffn_hidden_size
    query, key_value = shape.num_attention_heads * shape.head_dim, shape.num_query_groups * shape.head_dim
    sizes: dict[str, tuple[int, ...]] = {
        "embed_tokens": (vocab_size, hidden),
        "lm_head": (vocab_size, hidden),
        "q_proj": (query, hidden),
        "k_proj": (key_value, hidden),
        "v_proj": (key_value, hidden),
        "o_proj": (hidden, query),
        "gate_proj": (ffn, hidden),
        "up_proj": (ffn, hidden),
        "down_proj": (hidden, ffn),
        "q_norm": (shape.head_dim,),
        "k_norm": (shape.head_dim,),
    }
    names = [name for name in TOP.values() if not (shape.tie_embeddings and name == "lm_head.weight")]
    for layer in range(shape.num_layers):
        for targets in FAMILIES[shape.family].layer.values():
            names += [f"model.layers.{layer}.{target}" for target in targets]
    found = {}
    for name in names:
        *_, part, kind = name.split(".")
        size = sizes.get(part, (hidden,))
        found[name] = size if kind == "weight" else size[:1]
    return found


def num_parameters(shape: Shape, vocab: int) -> int:
    """Parameters of a model whose embedding has `vocab` rows (padded or not: the caller's choice)."""
    return sum(math.prod(size) for size in tensor_sizes(shape, vocab).values())


def flops_per_token(shape: Shape, vocab_size: int, seq_length: int) -> float:
    """Forward and backward FLOPs per token: 6 per matrix weight, and causal attention (Chowdhery et al. 2022, app. B)."""
    matrices = num_parameters(shape, vocab_size) - (
        0 if shape.tie_embeddings else vocab_size * shape.hidden_size
    )
    return 6 * matrices + 6 * shape.num_layers * shape.num_attention_heads * shape.head_dim * seq_length
