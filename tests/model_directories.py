"""Small model directories of every family, each with something said otherwise, twice, wrongly or not at all.

A variant changes a directory before it is written. `refused` is what the refusal must say where transformers loads the
directory and Perdure need not, because such a model cannot be trained; all others must load as transformers loads them, or be
refused as it refuses them.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file

from perdure.pipeline.model.files import EMBEDDING, FILE, HEAD, INDEX

HIDDEN, FFN, HEADS, GROUPS, LAYERS, VOCAB = 32, 48, 4, 2, 2, 320
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


@dataclass
class Directory:
    """A model directory to be: what its config says, its tensors, and how files hold them."""

    family: str
    config: dict
    tensors: dict[str, torch.Tensor]
    head_dim: int
    layout: str = "one"
    index: Callable[[dict], None] | None = None
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A change, for which families it has a meaning, and what a refusal says that transformers does not share."""

    name: str
    change: Callable[[Directory], None]
    families: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3")
    refused: str | None = None


def directory_of(family: str) -> Directory:
    """A plain model whose numbers are large enough that logits differ wherever anything does."""
    head_dim = 16 if family == "qwen3" else HIDDEN // HEADS
    config = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_theta": 100.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if family == "qwen3":
        config["head_dim"] = head_dim
    directory = Directory(family, config, {}, head_dim)
    fill(directory)
    return directory


def fill(directory: Directory) -> None:
    """Tensors of the sizes that the config now says."""
    config, width = directory.config, directory.head_dim
    groups = config.get("num_key_value_heads") or HEADS
    sizes = {EMBEDDING: (VOCAB, HIDDEN), HEAD: (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(config["num_hidden_layers"]):
        for name, size in {
            "input_layernorm.weight": (HIDDEN,),
            "post_attention_layernorm.weight": (HIDDEN,),
            "self_attn.q_proj.weight": (HEADS * width, HIDDEN),
            "self_attn.k_proj.weight": (groups * width, HIDDEN),
            "self_attn.v_proj.weight": (groups * width, HIDDEN),
            "self_attn.o_proj.weight": (HIDDEN, HEADS * width),
            "mlp.gate_proj.weight": (FFN, HIDDEN),
            "mlp.up_proj.weight": (FFN, HIDDEN),
            "mlp.down_proj.weight": (HIDDEN, FFN),
        }.items():
            sizes[f"model.layers.{layer}.{name}"] = size
        if directory.family == "qwen2":
            for part, number in (("q", HEADS), ("k", groups), ("v", groups)):
                sizes[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = (number * width,)
        if directory.family == "qwen3":
            for part in "qk":
                sizes[f"model.layers.{layer}.self_attn.{part}_norm.weight"] = (width,)
    generator = torch.Generator().manual_seed(len(sizes))
    for name, size in sizes.items():
        numbers = torch.randn(size, generator=generator)
        directory.tensors[name] = 1 + 0.3 * numbers if name.endswith("norm.weight") else 0.3 * numbers


def write(directory: Directory, to: Path) -> Path:
    """Writes a directory."""
    to.mkdir()
    (to / "config.json").write_text(json.dumps(directory.config))
    names = list(directory.tensors)
    parts = {"one": 1, "shards": 3, "both": 3, "bin": 0}[directory.layout]
    weight_map = {}
    for part in range(parts):
        file = FILE if parts == 1 else f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        own = names[part::parts]
        save_file({name: directory.tensors[name].contiguous() for name in own}, to / file)
        weight_map |= dict.fromkeys(own, file)
    if directory.layout == "both":  # another model's shards beside the file that counts
        other = {name: tensor + 1 for name, tensor in directory.tensors.items()}
        save_file(directory.tensors, to / FILE)
        for file in set(weight_map.values()):
            save_file(
                {name: other[name].contiguous() for name in names if weight_map[name] == file}, to / file
            )
    if directory.layout == "bin":
        torch.save(directory.tensors, to / "pytorch_model.bin")
    if parts > 1 or directory.index:
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        if directory.index:
            directory.index(index)
        (to / INDEX).write_text(json.dumps(index))
    for name, content in directory.files.items():
        (to / name).write_bytes(content)
    return to


def says(drop: tuple[str, ...] = (), **entries) -> Callable[[Directory], None]:
    """Entries of the config, some removed before."""

    def change(directory: Directory) -> None:
        for key in drop:
            directory.config.pop(key, None)
        directory.config.update(entries)

    return change


def resized(**entries) -> Callable[[Directory], None]:
    """Entries of the config, and tensors that go with them."""

    def change(directory: Directory) -> None:
        directory.config.update(entries)
        directory.head_dim = directory.config.get("head_dim") or HIDDEN // HEADS
        fill(directory)

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], None], **entries) -> Callable[[Directory], None]:
    """A change of the tensors, and entries of the config."""

    def both(directory: Directory) -> None:
        change(directory.tensors)
        directory.config.update(entries)

    return both


def laid_out(
    layout: str, index: Callable[[dict], None] | None = None, **files: bytes
) -> Callable[[Directory], None]:
    """How files hold the tensors."""

    def change(directory: Directory) -> None:
        directory.layout, directory.index = layout, index
        directory.files |= {name.replace("__", "."): content for name, content in files.items()}

    return change


def _same_head(found: dict) -> None:
    found[HEAD] = found[EMBEDDING].clone()


def _renamed(old: str, new: str) -> Callable[[dict], None]:
    def change(found: dict) -> None:
        for name in [name for name in found if name.startswith(old)]:
            found[new + name.removeprefix(old)] = found.pop(name)

    return change


def _stale(index: dict) -> None:
    index["weight_map"] = dict.fromkeys(index["weight_map"], "model-00001-of-00009.safetensors")


def _fewer(index: dict) -> None:
    """One name a file: transformers reads all that is in the files."""
    index["weight_map"] = {file: name for name, file in index["weight_map"].items()}
    index["weight_map"] = {name: file for file, name in index["weight_map"].items()}


def _more(index: dict) -> None:
    index["weight_map"]["model.ghost.weight"] = next(iter(index["weight_map"].values()))


def _without_last(index: dict) -> None:
    last = max(index["weight_map"].values())
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != last}


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
        "head the same": _same_head,
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


def _files() -> Iterator[Variant]:
    for name, change in {
        "shards": laid_out("shards"),
        "one file beside other shards": laid_out("both"),
        "stale index": laid_out("one", _stale),
        "index without files": laid_out("shards", _stale),
        "index of fewer tensors": laid_out("shards", _fewer),
        "index of more tensors": laid_out("shards", _more),
        "index of fewer files": laid_out("shards", _without_last),
        "index without metadata": laid_out("shards", lambda index: index.pop("metadata")),
        "odd generation config": laid_out(
            "one", generation_config__json=b'{"eos_token_id": [5, 6], "temperature": 0.5}'
        ),
        "no model. in names": tensors(_renamed("model.", "")),
        "model. twice in names": tensors(_renamed("model.", "model.model.")),
        "unknown prefix": tensors(_renamed("model.", "transformer.")),
        "bf16": tensors(
            lambda found: found.update({name: tensor.bfloat16() for name, tensor in found.items()})
        ),
        "fp16": tensors(lambda found: found.update({name: tensor.half() for name, tensor in found.items()})),
        "a type each": tensors(
            lambda found: found.update(
                {
                    name: tensor.to((torch.float32, torch.bfloat16, torch.float16, torch.float64)[number % 4])
                    for number, (name, tensor) in enumerate(found.items())
                }
            )
        ),
        "biases that nothing reads": tensors(
            lambda found: found.update(
                {f"model.layers.{layer}.self_attn.o_proj.bias": torch.ones(HIDDEN) for layer in range(2)}
            )
        ),
        "old rotary buffers": tensors(
            lambda found: found.update(
                {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(HIDDEN // HEADS // 2)}
            )
        ),
        "a norm missing": tensors(lambda found: found.pop("model.norm.weight")),
        "a matrix missing": tensors(lambda found: found.pop("model.layers.1.mlp.up_proj.weight")),
        "a norm too long": tensors(lambda found: found.update({"model.norm.weight": torch.ones(HIDDEN + 1)})),
        "a matrix transposed": tensors(
            lambda found: found.update(
                {name: found[name].t() for name in ("model.layers.0.mlp.down_proj.weight",)}
            )
        ),
        "fewer rows": tensors(lambda found: found.update({HEAD: found[HEAD][:300]})),
        "whole numbers": tensors(
            lambda found: found.update(
                {"model.norm.weight": (found["model.norm.weight"] * 3).round().to(torch.int8)}
            )
        ),
    }.items():
        yield Variant(name, change)
    yield Variant("pickle alone", laid_out("bin"), refused="a pickle can run code")
    yield Variant("adapter beside", laid_out("one", adapter_config__json=b"{}"), refused="holds an adapter")

    def twice(directory: Directory) -> None:
        directory.tensors["norm.weight"] = torch.full((HIDDEN,), 2.0)

    yield Variant("a name with and without model.", twice, refused="is there twice")


def variants() -> list[Variant]:
    """All of them, each alone."""
    plain = Variant("plain", lambda directory: None)
    return [plain, *_rope(), *_tying(), *_sizes(), *_parts(), *_windows(), *_files()]


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
