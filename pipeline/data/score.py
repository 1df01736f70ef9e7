"""Reference losses: what a Hugging Face causal language model thinks of every token of a source's training split.

They are what RHO-1 (arXiv 2404.07965) subtracts from the trainee's loss, and their mean per document is the
perplexity by which documents are ordered. The context of a token is its document's separator-led stream up to it,
cut into windows of `seq_length`: exactly what a trainer with document masks sees at a sample's start.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import (
    differences,
    disk_errors,
    finish,
    hash_file,
    hash_files,
    hash_of,
    is_finished,
    read_json,
)
from perdure.pipeline.shards import REF_MAX_UNITS, REF_MISSING, REF_NATS_PER_UNIT

if TYPE_CHECKING:
    import torch

FORMAT = 1
"""Version of what is written; a change in its meaning makes new directories."""
LOGIT_ELEMENTS = {"cuda": 1 << 25, "cpu": 1 << 18}
"""Logits held at a time: 128 MiB in fp32, or what fits into a core's cache, which is a third faster there."""
MIN_ROWS = 64
"""Tokens whose logits are computed together, at least; fewer would read the output matrix over and over."""
BATCH_TOKENS = 8192
"""Tokens of a forward pass, padding included."""
BLOCK_TOKENS = 1 << 20
"""Tokens whose windows are sorted together."""


def score_source(
    data_dir: Path, model_dir: Path, *, label: str, seq_length: int, workers: int, precision: str = "fp32"
) -> Path:
    """Scores the training split of one source, unless that is finished.

    Args:
        data_dir: The source's directory of shards.
        model_dir: A Hugging Face causal language model: `config.json` and safetensors.
        label: Names the result, `<data_dir>/scores/<label>@<hash8>`.
        seq_length: Labels per window.
        workers: Processes on CPU; with CUDA there is one for each device.
        precision: `fp32` or `bf16`, of the model's weights and activations.

    Returns:
        A directory with `<task>.ref.{bin,idx}` (uint16, milli-nats, one value a token, aligned with the shards),
        `docs.parquet` (shard, sequence, num_tokens, mean_nll in nats, perplexity) and `manifest.json`.

    Raises:
        PerdureError: If the model is missing or has another or a smaller vocabulary, or the disk is full.
    """
    data = read_json(data_dir / "manifest.json")
    inputs = {
        "format": FORMAT,
        "model_hash": model_hash(model_dir),
        "data_hash": data["data_hash"],
        "seq_length": seq_length,
        "precision": precision,
    }
    final = data_dir / "scores" / f"{label}@{hash_of(inputs)[:8]}"
    if is_finished(final):
        _check_origin(final, inputs)
        return final
    _check_vocabulary(model_dir, data)

    import torch

    from perdure.pipeline.data.executor import worker_pool

    workers = torch.cuda.device_count() or min(workers, data["tasks"])
    threads = max(1, torch.get_num_threads() // workers)
    with disk_errors(data_dir), worker_pool(workers, scoring=True) as pool:
        _score(data_dir, final, model_dir, data, inputs, threads, pool)
    return final


def model_hash(model_dir: Path) -> str:
    """SHA-256 over a model's `config.json` and weights, by content.

    Raises:
        PerdureError: If either is missing.
    """
    files = [model_dir / "config.json", *sorted(model_dir.glob("*.safetensors"))]
    if not files[0].is_file() or len(files) == 1:
        raise PerdureError(f"{model_dir}: not a Hugging Face model; it needs `config.json` and safetensors")
    return hash_of([(file.name, hash_file(file)) for file in files])


def token_losses(
    model: Any, windows: Sequence[tuple[np.ndarray, np.ndarray]], batch_tokens: int = BATCH_TOKENS
) -> list[np.ndarray]:
    """Losses of a causal language model on many windows, batched by length.

    Args:
        model: A transformers causal language model in evaluation mode.
        windows: Pairs of inputs and labels, integers [n] with n of any size; labels[t] follows inputs[t].
        batch_tokens: Tokens of a forward pass, padding included. A longer window is a batch of its own.

    Returns:
        float32 [n] per window: -log p(labels[t] | inputs[..t]) in nats.
    """
    import torch

    device = next(model.parameters()).device
    chunked = _head_applies_last(model)
    rows = max(MIN_ROWS, LOGIT_ELEMENTS[device.type] // model.config.vocab_size)
    losses: list[Any] = [None] * len(windows)
    with torch.inference_mode():
        for batch in _batches([len(inputs) for inputs, _ in windows], batch_tokens if chunked else rows):
            width = len(windows[batch[0]][0])
            padded = torch.zeros(2, len(batch), width, dtype=torch.long)
            for row, index in enumerate(batch):
                for part, tokens in enumerate(windows[index]):
                    padded[part, row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
            inputs, labels = padded.to(device)
            # Padding stands on the right, where causal attention never looks.
            values = _losses(model, inputs, labels, rows if chunked else None).cpu().numpy()
            for row, index in enumerate(batch):
                losses[index] = values[row, : len(windows[index][0])]
    return losses


def document_windows(tokens: np.ndarray, eos_id: int, seq_length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cuts a document, its separator included, into windows of at most `seq_length` labels.

    Inputs are the labels shifted by one; the first window's start with the separator.
    """
    stream = np.concatenate([[eos_id], tokens])
    return [
        (stream[start : start + seq_length][: len(tokens) - start], tokens[start : start + seq_length])
        for start in range(0, len(tokens), seq_length)
    ]


def to_units(losses: np.ndarray) -> np.ndarray:
    """Nats as stored: uint16 milli-nats, clipped; `REF_MISSING` where a loss is not finite."""
    finite = np.isfinite(losses)
    units = np.rint(np.where(finite, losses, 0.0) / REF_NATS_PER_UNIT)
    return np.where(finite, np.clip(units, 0, REF_MAX_UNITS), REF_MISSING).astype(np.uint16)


def score_documents(
    model: Any, documents: list[np.ndarray], eos_id: int, seq_length: int
) -> Iterator[np.ndarray]:
    """Losses float32 [num_tokens] of each document, in nats."""
    windows = [document_windows(tokens, eos_id, seq_length) for tokens in documents]
    losses = iter(token_losses(model, [window for pieces in windows for window in pieces]))
    for pieces in windows:
        yield np.concatenate([next(losses) for _ in pieces])


def load_model(model_dir: Path, precision: str, device: str) -> Any:
    """A Hugging Face causal language model, ready to score.

    Raises:
        PerdureError: If transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise PerdureError(f"{model_dir}: the model cannot be loaded: {error}") from error
    return model.to(device).eval()


def _score(
    data_dir: Path,
    final: Path,
    model_dir: Path,
    data: dict,
    inputs: dict,
    threads: int,
    pool: ProcessPoolExecutor,
) -> None:
    from perdure.pipeline.data.executor import Executor, building
    from perdure.pipeline.data.scorer import Scorer
    from perdure.pipeline.data.shard import merge_tables

    out, tasks = data_dir.parent.parent, data["tasks"]
    with building(out, final) as work:
        artefact = work / "artefact"
        step = Scorer(
            data_dir, artefact, model_dir, data["eos_id"], inputs["seq_length"], inputs["precision"], threads
        )
        (counts,) = Executor([step], tasks, pool, work / "score").run()
        assert counts["tokens"] == data["counts"]["train"]["tokens"]
        merge_tables(
            [artefact / f"docs.{task:05d}.parquet" for task in range(tasks)], artefact / "docs.parquet"
        )
        files = hash_files(artefact)
        totals = {key: counts[key] for key in ("documents", "tokens", "clipped", "missing")}
        manifest = inputs | {"source": data["source"], "tokenizer_hash": data["tokenizer_hash"]}
        finish(artefact, manifest | {"counts": totals, "files": files})


def _check_origin(final: Path, inputs: dict) -> None:
    """Refuses scores that were copied here from another model, other data or another length."""
    found = read_json(final / "manifest.json")
    if differing := differences(inputs, {key: found.get(key) for key in inputs}):
        raise PerdureError(
            f"{final}: these scores were made from something else ({'; '.join(differing)}); delete them and run again"
        )


def _check_vocabulary(model_dir: Path, data: dict) -> None:
    """Refuses a model that was not made for the data's tokenizer."""
    tokenizer = model_dir / "tokenizer.json"
    if tokenizer.is_file() and (found := hash_file(tokenizer)) != data["tokenizer_hash"]:
        raise PerdureError(
            f"{model_dir}: its tokenizer ({found[:8]}) is not the data's ({data['tokenizer_hash'][:8]}); scores "
            "would be meaningless: choose a model with the recipe's tokenizer, or give the recipe the model's"
        )
    size = read_json(model_dir / "config.json").get("vocab_size", 0)
    if size < data["vocab_size"]:
        raise PerdureError(
            f"{model_dir}: its vocabulary of {size} is smaller than the tokenizer's {data['vocab_size']}; choose "
            "a model with the recipe's tokenizer"
        )


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of windows, longest first, in groups whose padded size is at most `batch_tokens`."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // lengths[order[start]])
        yield order[start : start + rows]
        start += rows


def _losses(model: Any, inputs: "torch.Tensor", labels: "torch.Tensor", rows: int | None) -> "torch.Tensor":
    """Losses float32 [batch, width]; with `rows`, logits exist for that many tokens at a time only."""
    import torch

    def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        return torch.logsumexp(logits, -1) - logits.gather(-1, targets[:, None])[:, 0]

    targets = labels.flatten()
    if rows is None:
        logits = model(input_ids=inputs, use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1), targets).view_as(labels)
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
    head = model.get_output_embeddings()
    parts = [
        cross_entropy(head(hidden[at : at + rows]), targets[at : at + rows])
        for at in range(0, len(targets), rows)
    ]
    return torch.cat(parts).view_as(labels)


def _head_applies_last(model: Any) -> bool:
    """Whether logits are the output embedding of the last hidden state, with no scaling or capping after it."""
    import torch

    tokens = torch.arange(min(8, model.config.vocab_size), device=next(model.parameters()).device)[None]
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return torch.allclose(model.get_output_embeddings()(hidden), logits, rtol=1e-3, atol=1e-3)


def mean_nll(losses: np.ndarray) -> float:
    """Mean over a document's finite losses, in nats; NaN if there are none."""
    finite = losses[np.isfinite(losses)]
    return float(finite.mean(dtype=np.float64)) if len(finite) else math.nan
