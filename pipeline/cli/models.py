"""`perdure import`: what is understood of a Hugging Face model. `perdure export`: a version, or one of its
checkpoints, as a Hugging Face model."""

import logging
import math
import os
import warnings
from pathlib import Path

import yaml

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import HASHES, disk_errors, is_finished
from perdure.pipeline.core.paths import RunPaths, VersionPaths
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.model.exports import export_of
from perdure.pipeline.model.files import listed, model_tensors
from perdure.pipeline.model.layout import tensor_parallel_sizes
from perdure.pipeline.model.separator import separator_line
from perdure.pipeline.model.shape import (
    Shape,
    config_shape,
    config_vocab_size,
    num_parameters,
    padded_vocab_size,
    tensor_sizes,
)
from perdure.pipeline.plan.recorded import version_recipe
from perdure.pipeline.recipe import Kernels, Parallel

logger = logging.getLogger(__name__)

WORDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
"""Types of tensors as `config.json` names them."""


def describe(directory: Path) -> str:
    """Checks a Hugging Face directory.

    Args:
        directory: With `config.json`, safetensors, and, for use as the recipe's, `tokenizer.json`.

    Returns:
        The `model:` and `tokenizer:` sections of a recipe; before them, as comments, what is understood.

    Raises:
        PerdureError: If it cannot be converted: its config, or a tensor that is missing or of another size.
    """
    shape, vocab_size = config_shape(directory), config_vocab_size(directory)
    tensors, unread = model_tensors(directory, tensor_sizes(shape, vocab_size))
    types = {WORDS.get(stored.dtype, stored.dtype) for stored in tensors.values()}
    window = "no sliding window"
    if shape.sliding_window is not None:
        window = f"samples of at most {shape.sliding_window:,} tokens (sliding window)"
    files = len({stored.file for stored in tensors.values()})
    lines = [
        f"{shape.family}: {num_parameters(shape, vocab_size):,} parameters in {files} file{'s' * (files > 1)} "
        f"({', '.join(sorted(types))})",
        f"{shape.num_layers} layers of width {shape.hidden_size:,}, FFN {shape.ffn_hidden_size:,}, "
        f"{shape.num_attention_heads} heads in {shape.num_query_groups} groups, {shape.head_dim} wide; "
        f"{'tied' if shape.tie_embeddings else 'untied'} embeddings, {vocab_size:,} rows",
        f"rotary base {shape.rope_theta:,g}{', stretched as Llama 3.1' if shape.rope_scaling else ''}; {window}",
        *_layouts(shape, vocab_size),
    ]
    if unread:
        lines.append(f"nothing reads {len(unread)} tensors, and no version will have them: {listed(unread)}")
    sections: dict[str, dict] = {"model": {"type": "huggingface", "path": str(directory)}}
    hint = ""
    if (directory / "tokenizer.json").is_file():
        words, hint = _tokenizer(directory)
        lines.append(words)
        sections["tokenizer"] = sections["model"]
    else:
        lines.append("no tokenizer.json: save the tokenizer with save_pretrained() of a fast tokenizer")
    comments = "".join(f"# {line}\n" for line in lines)
    parts = [yaml.safe_dump({name: dict(section)}, sort_keys=False) for name, section in sections.items()]
    return comments + "".join(parts) + (f"  {hint}\n" if hint else "")


def _layouts(shape: Shape, vocab_size: int) -> list[str]:
    parts = (*tensor_parallel_sizes(shape).values(), padded_vocab_size(vocab_size))
    common = {"tensor_parallel": math.gcd(*parts), "pipeline_parallel": shape.num_layers}
    return [
        f"parallel.{name}: {', '.join(str(size) for size in range(1, number + 1) if number % size == 0)}"
        for name, number in common.items()
    ]


def _tokenizer(directory: Path) -> tuple[str, str]:
    """A directory's tokenizer in words, and what its section should say of the separator, if anything."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions on a broken file
        raise PerdureError(f"{path}: cannot be read ({error})") from None
    ending, hint = separator_line(directory, tokenizer)
    kind = type(tokenizer.model).__name__
    return (
        f"tokenizer: {kind}, {tokenizer.get_vocab_size():,} tokens; {ending}; hash {hash_file(path)[:8]}",
        hint,
    )


def export(run: Path, version: str, step: int | None, to: Path, max_shard_bytes: int) -> None:
    """Writes a finished version, or any checkpoint that is kept, as a Hugging Face directory.

    Args:
        run: The run's directory.
        version: Name of a version.
        step: Step of a checkpoint; None for the finished version.
        to: A new directory.
        max_shard_bytes: Bound of a safetensors file.

    Raises:
        PerdureError: If there is no such version or checkpoint, or `to` exists.
    """
    directory = RunPaths(run).version(version).directory
    if not VersionPaths(directory).inputs.is_file():
        known = RunPaths(run).begun_versions()
        raise PerdureError(f"{directory}: no such version; {run} has {', '.join(known) or 'none'}")
    if to.exists():
        raise PerdureError(f"{to}: already exists; choose another --to or remove it")
    with disk_errors(to):
        if step is not None:
            _export_checkpoint(directory, step, to, max_shard_bytes)
        elif is_finished(directory):
            from perdure.pipeline.model.huggingface import copy_model

            copy_model(export_of(directory), to, max_shard_bytes)
        else:
            raise PerdureError(
                f"version {version} is not finished; name a checkpoint with --step ({_kept(directory)})"
            )
        write_json(to / HASHES, {"files": hash_files(to, remember=False)})
    logger.info(f"{to} loads with AutoModelForCausalLM.from_pretrained()")


def _export_checkpoint(directory: Path, step: int, to: Path, max_shard_bytes: int) -> None:
    """Loads the weights of a checkpoint of any layout into one rank, in the host's memory, and writes them."""
    warnings.filterwarnings("ignore", module="megatron")
    warnings.filterwarnings("ignore", "Please use DTensor", FutureWarning)  # as in the trainer
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # they need not fit into a GPU, and nothing is computed
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch.distributed as dist

    from perdure.pipeline.model.adapters import merge_adapters
    from perdure.pipeline.model.device import initialise
    from perdure.pipeline.model.export import export as write
    from perdure.pipeline.model.language_model import build_weights, unwrap
    from perdure.pipeline.train.checkpoint import load_weights

    path = VersionPaths(directory).checkpoint(step)
    if not is_finished(path):
        raise PerdureError(f"{path}: no such checkpoint; kept: {_kept(directory)}")
    recipe, inputs = version_recipe(directory), read_inputs(VersionPaths(directory))
    recipe = recipe.model_copy(update={"parallel": Parallel(), "kernels": Kernels()})
    adapter = recipe.versions[inputs["version"]].adapter
    model = build_weights(recipe, inputs["vocab_size"], initialise(), adapter)
    load_weights(path, model)
    merge_adapters(unwrap(model))
    write(
        unwrap(model),
        recipe,
        inputs["vocab_size"],
        inputs["eos_id"],
        Path(inputs["tokenizer"]),
        to,
        max_shard_bytes,
    )
    dist.destroy_process_group()


def _kept(directory: Path) -> str:
    return ", ".join(map(str, VersionPaths(directory).finished_checkpoints())) or "none yet"
