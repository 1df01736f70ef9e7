"""Small model directories of every family, each with something said otherwise, twice, wrongly or not at all.

A variant changes a directory before it is written. `refused` is what the refusal must say where transformers loads the
directory and Perdure need not, because such a model cannot be trained; all others must load as transformers loads them, or be
refused as it refuses them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from perdure.pipeline.model.files import FILE, INDEX
from perdure.pipeline.model.parameters import EMBEDDING, HEAD

HIDDEN, FFN, HEADS, GROUPS, LAYERS, VOCAB = 32, 48, 4, 2, 2, 320


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
