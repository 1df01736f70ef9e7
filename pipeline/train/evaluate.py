"""Held-out loss of every domain, through the model and layout that train."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import megatron.core.parallel_state as mpu
import numpy as np
import torch

from perdure.pipeline.domains import source_of
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.dataset import Batch, collate, open_heldout, read_sample
from perdure.pipeline.train.step import run_batches


def evaluate(
    model: torch.nn.Module,
    recipe: Recipe,
    domains: Iterable[str],
    data: dict[str, Path],
    device: torch.device,
) -> dict[str, dict]:
    """Measures every domain's held-out documents; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: Batch sizes and `evaluation.max_tokens`.
        domains: Their names.
        data: Data directory per source.
        device: This rank's device.

    Returns:
        Per domain: `loss` (mean nats per token), `tokens`, `documents`, `bytes`, `bits_per_byte`. A part of a source
        of which no document is held out is left out.
    """
    model.eval()
    with torch.no_grad():
        results = {
            name: _domain(model, recipe, name, data[source_of(name)], device) for name in sorted(domains)
        }
    model.train()
    return {name: result for name, result in results.items() if result is not None}


def _domain(
    model: torch.nn.Module, recipe: Recipe, name: str, directory: Path, device: torch.device
) -> dict | None:
    stream, sizes = open_heldout(directory, name)
    if not len(stream.ends):
        return None
    # Whole documents up to the budget, at least one, so that their bytes are known.
    documents = max(1, int(np.searchsorted(stream.ends, recipe.evaluation.max_tokens, side="right")))
    tokens = int(stream.ends[documents - 1])
    seq_length, micro, ranks = (
        recipe.training.seq_length,
        recipe.training.micro_batch_size,
        recipe.parallel.data_parallel,
    )
    num_microbatches = -(-tokens // (seq_length * micro * ranks))

    def batches() -> Iterator[tuple[range, Batch]]:
        for number in range(num_microbatches):
            start = (number * ranks + mpu.get_data_parallel_rank()) * micro
            indices = range(start, start + micro)
            samples = [_masked_sample(stream, index, seq_length, tokens) for index in indices]
            yield indices, collate(samples, [0] * micro, [False] * micro, device)

    counts = run_batches(model, batches(), num_microbatches, recipe, stream.eos_id, 1, forward_only=True)
    assert counts.tokens[0] == tokens
    num_bytes = int(sizes[:documents].sum())
    return {
        "loss": counts.loss[0] / tokens,
        "tokens": tokens,
        "documents": documents,
        "bytes": num_bytes,
        "bits_per_byte": counts.loss[0] / math.log(2) / num_bytes,
    }


def _masked_sample(
    stream, index: int, seq_length: int, num_tokens: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """A held-out sample whose labels beyond the first `num_tokens` of the stream do not count."""
    if index * seq_length >= num_tokens:
        empty = np.full(seq_length + 1, stream.eos_id, np.int64)
        return empty, np.zeros(seq_length, np.int32), 0
    tokens, reference, num_valid = read_sample(stream, index, seq_length)
    return tokens, reference, min(num_valid, num_tokens - index * seq_length)
