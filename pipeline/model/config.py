"""What transformers 5 makes of a model's `config.json` (no import of torch or transformers, whose import takes seconds).

Entries that stand in two places count as transformers counts them. What it would not load, or what makes another model than can
be trained here, is refused. `tests/pipeline/model/test_differential.py` compares with transformers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.model.families import DEFAULTS, FAMILIES, Family

Config = dict[str, Any]
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
EVERYWHERE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*SIZES, "pad_token_id", "bos_token_id"), (int,)),
    "eos_token_id": (int, list),
    **dict.fromkeys(("rms_norm_eps", "initializer_range"), (float,)),
    "attention_dropout": (int, float),
    **dict.fromkeys(("tie_word_embeddings", "use_cache"), (bool,)),
    "hidden_act": (str,),
    "rope_parameters": (dict,),
}
"""Types of the entries that all families have; transformers converts no type into another."""
OF_FAMILIES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings"), (int,)),
    **dict.fromkeys(("sliding_window", "max_window_layers"), (int,)),
    **dict.fromkeys(("use_sliding_window", "attention_bias", "mlp_bias"), (bool,)),
}
"""Types of the entries that some families have; elsewhere nothing reads them."""
NAMES_OF_TYPES: dict[type, str] = {
    int: "a whole number",
    float: "a number with a decimal point",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "an object",
}
NULLABLE = {"pad_token_id", "bos_token_id", "eos_token_id", "rope_parameters"}
SILU = ("silu", "swish")
"""Names of the same activation."""
FULL, SLIDING = "full_attention", "sliding_attention"
DTYPES = ("float32", "float", "bfloat16", "float16", "half", "float64", "double")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_config(path: Path) -> Config:
    """Reads a `config.json`, with its family's defaults filled in and what stands in several places brought together.

    Args:
        path: The file.

    Returns:
        Its entries; and `rope_theta`; `rope_llama3`, the four numbers of Llama 3.1's stretching, or None; `window`, the tokens
        that a token attends to where layers have a sliding window, or None.

    Raises:
        PerdureError: If it is missing or broken, if transformers could not load it, or if it cannot be converted.
    """
    written = read_json(path)
    name = written.get("model_type") if isinstance(written, dict) else None
    if name not in FAMILIES:
        raise PerdureError(f"{path}: model_type is {name!r}; should be {' or '.join(FAMILIES)}")
    family = FAMILIES[name]
    config = DEFAULTS | family.defaults | written
    if name == "mistral" and "layer_types" in written:  # transformers then makes a Ministral of it
        family = replace(family, layer_types=True)
    try:
        _check_types(config, family)
        _check_values(config, family)
        kinds = _layer_types(config, family)
        return (
            config
            | _heads(config, family)
            | _rope(config, kinds)
            | {"window": _window(config, family, kinds)}
        )
    except ValueError as error:
        raise PerdureError(f"{path}: {error}") from None


def _check_types(config: Config, family: Family) -> None:
    own = {key: OF_FAMILIES[key] for key in family.defaults | family.only if key in OF_FAMILIES}
    for key, types in (EVERYWHERE | own).items():
        value = config.get(key, ...)
        if value is None and key not in NULLABLE | family.nullable:
            raise ValueError(f"{key} is null; should be {_names(types)}, or left out")
        fits = isinstance(value, types) and (not isinstance(value, bool) or bool in types)
        if value is not None and value is not ... and not fits:
            raise ValueError(f"{key} is {value!r}; should be {_names(types)}")
    dtype = config.get("dtype") or config.get("torch_dtype")
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; should be {', '.join(DTYPES)}")


def _names(types: tuple[type, ...]) -> str:
    return " or ".join(NAMES_OF_TYPES[kind] for kind in types)


def _check_values(config: Config, family: Family) -> None:
    for key in SIZES:
        if config[key] < 1:
            raise ValueError(f"{key} is {config[key]}; should be at least 1")
    if config["hidden_act"] not in SILU:
        raise ValueError(
            f"hidden_act is {config['hidden_act']!r}; only {' and '.join(map(repr, SILU))} can be converted"
        )
    for key, only in family.only.items():
        if config.get(key, only) != only:
            raise ValueError(f"{key} is {config[key]!r}; only {only!r} can be converted")
    if config.get("quantization_config") is not None:
        raise ValueError("the weights are quantised; save the model in fp32 or bf16")
    if config.get("per_layer_config") is not None:
        raise ValueError("per_layer_config makes layers of several shapes, which cannot be converted")
    if not config.get("is_causal", True):
        raise ValueError("is_causal is false: attention to later tokens cannot be converted")
    padding = config.get("pad_token_id")
    if padding is not None and not -config["vocab_size"] <= padding < config["vocab_size"]:
        raise ValueError(f"pad_token_id is {padding}; should be below vocab_size ({config['vocab_size']})")


def _heads(config: Config, family: Family) -> Config:
    """Numbers of heads and their width."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    groups = heads if config["num_key_value_heads"] is None else config["num_key_value_heads"]
    if groups < 1 or heads % groups:
        raise ValueError(
            f"num_attention_heads ({heads}) should be a multiple of num_key_value_heads ({groups})"
        )
    if config["model_type"] == "llama" and hidden % heads:
        raise ValueError(f"hidden_size ({hidden}) should be a multiple of num_attention_heads ({heads})")
    width = config.get("head_dim", hidden // heads)
    if width is None and not family.layer_types:
        width = hidden // heads
    if type(width) is not int or width < 2 or width % 2:
        raise ValueError(
            f"head_dim is {width!r}; should be an even number: rotary embeddings turn pairs of dimensions"
        )
    return {"num_key_value_heads": groups, "head_dim": width}


def _layer_types(config: Config, family: Family) -> list[str] | None:
    """Each layer's kind of attention; None where the model does not read it."""
    layers, kinds = config["num_hidden_layers"], config.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or not all(kind in ("attention", FULL, SLIDING) for kind in kinds):
            raise ValueError(f"layer_types should be a list of {FULL!r} and {SLIDING!r}")
        if len(kinds) != layers:
            raise ValueError(f"layer_types has {len(kinds)} entries, but num_hidden_layers is {layers}")
        return [FULL if kind == "attention" else kind for kind in kinds]
    if not family.layer_types:
        return None
    slides = config.get("use_sliding_window", True) and config["sliding_window"] is not None
    first = config.get("max_window_layers", 0) if slides else layers
    return [SLIDING if layer >= first else FULL for layer in range(layers)]


def _window(config: Config, family: Family, kinds: list[str] | None) -> int | None:
    """Tokens that a token attends to where layers have a sliding window; None if none has."""
    window = config["sliding_window"] if "sliding_window" in family.defaults else None
    if family.layer_types:
        assert kinds is not None
        if SLIDING not in kinds and (window is not None or config["model_type"] != "mistral"):
            return None
        if window is None or not config.get("use_sliding_window", True):
            raise ValueError("layer_types needs a sliding window, and none is in use")
    if window is not None and window < 1:
        raise ValueError(f"sliding_window is {window}; should be at least 1")
    return window


def _rope(config: Config, kinds: list[str] | None) -> Config:
    """The rotary embedding: `rope_scaling` counts before `rope_parameters`, and what stands in either before the top level."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_scaling is {rope!r}; should be an object")
    if nested := [key for key in rope if key in (kinds or ())]:
        raise ValueError(
            f"the rotary embedding of {nested[0]!r} layers is their own, which cannot be converted"
        )
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = _number("rope_theta", rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    if kind == "default":
        return {"rope_theta": theta, "rope_llama3": None}
    if kind != "llama3":
        raise ValueError(f"rotary scaling {kind!r} is not supported; only 'default' and 'llama3' are")
    if (share := rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) not in (
        1.0,
        None,
    ):
        raise ValueError(f"partial_rotary_factor {share} is not supported with 'llama3'")
    positions = {"original_max_position_embeddings": config["max_position_embeddings"]} | rope
    if "original_max_position_embeddings" in config:
        positions["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    return {"rope_theta": theta, "rope_llama3": [_number(key, positions.get(key)) for key in LLAMA3]}


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{key} of the rotary embedding is {value!r}; should be a number above 0")
    return value
