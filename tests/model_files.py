"""Variants of a model directory's files: names, indices, tensors."""

from collections.abc import Callable, Iterator

import torch
from model_directories import HEADS, HIDDEN, Directory, Variant, laid_out, tensors

from perdure.pipeline.model.files import EMBEDDING, HEAD


def same_head(found: dict) -> None:
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


def files() -> Iterator[Variant]:
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
