"""Variants of small model directories: something said otherwise, twice, wrongly or not at all."""

import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch
from model_directories import (
    LAYERS,
    VOCAB,
    Directory,
    Variant,
    directory_of,
    resized,
    says,
    tensors,
    write,
)
from model_files import files, same_head

from perdure.pipeline.model.files import EMBEDDING, HEAD

LENGTH = 40
"""Tokens that logits are compared on."""
LLAMA3 = {
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
UNSUPPORTED = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 32},
}


def _rope() -> Iterator[Variant]:
    llama3 = {"rope_type": "llama3", **LLAMA3}
    plain = {"rope_type": "default", "rope_theta": 5000.0}
    old = ("rope_theta",)
    for name, change in {
        "no theta": says(old),
        "new keys": says(old, rope_parameters=plain),
        "whole theta": says(rope_theta=77),
        "new keys without theta, old theta": says(rope_parameters={"rope_type": "default"}),
        "new and old theta agree": says(rope_parameters=plain, rope_theta=5000.0),
        "new and old theta differ": says(rope_parameters=plain, rope_theta=77.0),
        "scaling null": says(rope_scaling=None),
        "scaling empty": says(rope_scaling={}, rope_parameters=plain),
        "old llama3": says(rope_scaling=llama3),
        "old llama3 by type": says(rope_scaling={"type": "llama3", **LLAMA3}),
        "types differ": says(rope_scaling={"type": "linear", "rope_type": "llama3", **LLAMA3}),
        "new llama3": says(old, rope_parameters=llama3 | {"rope_theta": 5000.0}),
        "both agree": says(rope_parameters=llama3 | {"rope_theta": 100.0}, rope_scaling=llama3),
        "both differ, llama3 in scaling": says(rope_parameters=plain, rope_scaling=llama3),
        "both differ, llama3 in parameters": says(rope_parameters=llama3, rope_scaling={"type": "default"}),
        "both differ in factor": says(
            rope_parameters=llama3 | {"rope_theta": 5000.0}, rope_scaling=llama3 | {"factor": 8.0}
        ),
        "llama3 original from positions": says(
            max_position_embeddings=16,
            rope_scaling={key: value for key, value in llama3.items() if not key.startswith("original")},
        ),
        "llama3 original at the top": says(rope_scaling=llama3, original_max_position_embeddings=8),
        "llama3 lacks a factor": says(
            rope_scaling={key: value for key, value in llama3.items() if key != "low_freq_factor"}
        ),
        "default with leftovers": says(rope_scaling=LLAMA3 | {"rope_type": "default"}),
        "partial, not read": says(partial_rotary_factor=0.5),
        "theta null": says(rope_theta=None),
        "theta as text": says(rope_theta="100"),
        "scaling as text": says(rope_scaling="linear"),
        "nested by layer": says(rope_parameters={"full_attention": plain}),
        "of no known kind": says(rope_scaling={"type": "strange", "factor": 2.0}),
    }.items():
        yield Variant(f"rope: {name}", change)
    for kind, entries in UNSUPPORTED.items():
        yield Variant(
            f"rope: {kind}", says(rope_scaling={"type": kind, **entries}), refused="is not supported"
        )


def _tying() -> Iterator[Variant]:
    heads: dict[str, Callable[[dict], None]] = {
        "head absent": lambda found: found.pop(HEAD),
        "head the same": same_head,
        "head another": lambda found: None,
        "embedding absent": lambda found: found.pop(EMBEDDING),
        "head the same in bf16": lambda found: found.update({HEAD: found[EMBEDDING].bfloat16()}),
        "both absent": lambda found: (found.pop(HEAD), found.pop(EMBEDDING)),
    }
    for (head, change), tied in product(heads.items(), (True, False, None)):
        entries = {} if tied is None else {"tie_word_embeddings": tied}

        def both(directory: Directory, change=change, entries=entries) -> None:
            directory.config.pop("tie_word_embeddings")
            change(directory.tensors)
            directory.config.update(entries)

        yield Variant(f"tied {tied}, {head}", both)
    yield Variant(
        "tied, both rounded to bf16 alike",
        tensors(
            lambda found: (
                found.update({EMBEDDING: found[EMBEDDING].bfloat16()}),
                found.update({HEAD: found[EMBEDDING].float()}),
            ),
            tie_word_embeddings=True,
        ),
    )
    yield Variant("tied as text", says(tie_word_embeddings="false"))
    yield Variant("tied null", says(tie_word_embeddings=None))


def _sizes() -> Iterator[Variant]:
    for name, change in {
        "head_dim explicit": resized(head_dim=24),
        "head_dim absent": says(("head_dim",)),
        "head_dim null": says(head_dim=None),
        "head_dim of another size": says(head_dim=10),
        "head_dim odd": resized(head_dim=7),
        "head_dim as text": says(head_dim="8"),
        "groups absent": says(("num_key_value_heads",)),
        "groups null": resized(num_key_value_heads=None),
        "groups: one": resized(num_key_value_heads=1),
        "groups: three": resized(num_key_value_heads=3),
        "groups: none": says(num_key_value_heads=0),
        "layers: one, two in the file": says(num_hidden_layers=1),
        "layers: three, two in the file": says(num_hidden_layers=3),
        "layers as text": says(num_hidden_layers="2"),
        "layers as 2.0": says(num_hidden_layers=2.0),
        "heads: three": says(num_attention_heads=3),
        "FFN absent": says(("intermediate_size",)),
        "vocab_size above the rows": says(vocab_size=384),
        "vocab_size below the rows": says(vocab_size=310),
        "vocab_size absent": says(("vocab_size",)),
        "epsilon large": says(rms_norm_eps=0.5),
        "epsilon absent": says(("rms_norm_eps",)),
        "epsilon whole": says(rms_norm_eps=1),
        "epsilon null": says(rms_norm_eps=None),
        "positions few": says(max_position_embeddings=8),
        "positions absent": says(("max_position_embeddings",)),
        "pad id": says(pad_token_id=3),
        "pad id of no row": says(pad_token_id=VOCAB),
        "pad id -1": says(pad_token_id=-1),
    }.items():
        yield Variant(name, change)


def _parts() -> Iterator[Variant]:
    """Activation, biases, windows, and entries that change the model or that nothing reads."""
    for name, change in {
        "activation absent": says(("hidden_act",)),
        "activation swish": says(hidden_act="swish"),
        "activation null": says(hidden_act=None),
        "architectures absent": says(("architectures",)),
        "architectures another": says(architectures=["LlamaForSequenceClassification"]),
        "architectures odd": says(architectures=[]),
        "dtype old": says(torch_dtype="bfloat16"),
        "dtype both": says(torch_dtype="float16", dtype="float32"),
        "unknown entries": says(frobnicate=7, alpha=0.5, rope_interleaved=False, logit_scale=3.0),
        "dropout": says(attention_dropout=0.1),
        "window of others": says(window_size=8),
        "cache": says(use_cache=False),
        "quantised: null": says(quantization_config=None),
        "is_causal": says(is_causal=True),
        "layers all full": says(layer_types=["full_attention"] * LAYERS),
        "too few layer types": says(layer_types=["full_attention"]),
        "layer types unknown": says(layer_types=["round_attention"] * LAYERS),
        "pretraining_tp": says(pretraining_tp=2),
    }.items():
        yield Variant(name, change)
    yield Variant("activation gelu", says(hidden_act="gelu"), refused="hidden_act is 'gelu'")
    yield Variant(
        "dtype unknown", says(torch_dtype="float33"), refused="dtype is 'float33'"
    )  # without an explicit one
    yield Variant("not causal", says(is_causal=False), refused="is_causal is false")
    for key, families in {"attention_bias": ("llama", "qwen3"), "mlp_bias": ("llama",)}.items():
        others = tuple({"llama", "mistral", "qwen2", "qwen3"} - set(families))
        yield Variant(f"{key} that nothing reads", says(**{key: True}), others)
        yield Variant(f"{key} without tensors", says(**{key: True}), families)
        yield Variant(f"{key} false", says(**{key: False}), families)
        yield Variant(f"{key} 0", says(**{key: 0}), families)

    def biased(directory: Directory) -> None:
        directory.config["attention_bias"] = True
        for layer, part in product(range(LAYERS), "qkvo"):
            rows = len(directory.tensors[f"model.layers.{layer}.self_attn.{part}_proj.weight"])
            directory.tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = torch.ones(rows)

    yield Variant("attention_bias with tensors", biased, ("llama", "qwen3"), "attention_bias is True")


def _windows() -> Iterator[Variant]:
    qwen, window = ("qwen2", "qwen3"), "sliding window"
    yield Variant("window below the length", says(sliding_window=16), ("mistral",), window)
    yield Variant("window of the length", says(sliding_window=LENGTH), ("mistral",))
    yield Variant("window null", says(sliding_window=None))
    yield Variant("window as text", says(sliding_window="16"), ("mistral", *qwen))
    yield Variant("window not in use", says(sliding_window=16, use_sliding_window=False), qwen)
    yield Variant("window without a word on its use", says(sliding_window=16), qwen)
    use = {"use_sliding_window": True, "sliding_window": 16}
    yield Variant("window in use", says(**use, max_window_layers=0), qwen, window)
    yield Variant("window in use in one layer", says(**use, max_window_layers=1), qwen, window)
    yield Variant("window in use in no layer", says(**use, max_window_layers=2), qwen)
    yield Variant("window in use, layers by default", says(**use), qwen)
    yield Variant("window large", says(use_sliding_window=True, sliding_window=64, max_window_layers=0), qwen)
    mixed = {"layer_types": ["full_attention", "sliding_attention"]}
    yield Variant("layer types with a window", says(**use, **mixed), qwen, window)
    yield Variant("layer types with a large window", says(**use | {"sliding_window": 64}, **mixed), qwen)
    yield Variant(
        "layer types against max_window_layers",
        says(**use, layer_types=["full_attention"] * 2, max_window_layers=0),
        qwen,
    )
    yield Variant("layer types without a window", says(**mixed), qwen)
    yield Variant(
        "window in use, but null",
        says(use_sliding_window=True, sliding_window=None, max_window_layers=0),
        qwen,
    )
    for name, kinds in {
        "none": None,
        "all full": ["full_attention"] * 2,
        "mixed": mixed["layer_types"],
    }.items():
        for size, refused in ((64, None), (16, None if name == "all full" else window), (None, None)):
            change = resized(layer_types=kinds, sliding_window=size, head_dim=8)
            yield Variant(f"a Ministral: layer types {name}, window {size}", change, ("mistral",), refused)
    yield Variant("window in use as text", says(use_sliding_window="yes"), qwen)
    yield Variant("window that llama does not read", says(sliding_window=16), ("llama",))
    yield Variant("window in use that llama does not read", says(**use), ("llama",))


def variants() -> list[Variant]:
    """All of them, each alone."""
    plain = Variant("plain", lambda directory: None)
    return [plain, *_rope(), *_tying(), *_sizes(), *_parts(), *_windows(), *files()]


def cases(together: int, thinned: bool = False) -> list[tuple[str, tuple[Variant, ...]]]:
    """A family and variants of it: every one alone, and `together` times three at random.

    Args:
        together: How many at random.
        thinned: Whether a variant that all families know is tried for Llama and one other only.
    """
    families = ("llama", "mistral", "qwen2", "qwen3")
    every = []
    for number, variant in enumerate(variants()):
        chosen = (
            ("llama", families[1 + number % 3])
            if thinned and number and variant.families == families
            else variant.families
        )
        every += [(family, (variant,)) for family in chosen]
    rng = random.Random(1)
    for _ in range(together):
        family = rng.choice(families)
        every.append((family, tuple(rng.sample([v for v in variants() if family in v.families], 3))))
    return every


def make(family: str, changes: tuple[Variant, ...], to: Path) -> Path | None:
    """Writes a directory with all of some changes; None if they do not go together."""
    directory = directory_of(family)
    try:
        for variant in changes:
            variant.change(directory)
    except (KeyError, RuntimeError):
        return None
    return write(directory, to)
