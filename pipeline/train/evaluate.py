"""Held-out loss of every domain, through the model and layout that train, and of every document of it."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import megatron.core.parallel_state as mpu
import numpy as np
import pyarrow as pa
import torch

from perdure.pipeline.domains import source_of
from perdure.pipeline.evaluate.documents import DOCUMENTS, count_measured
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.dataset import Batch, collate, open_heldout, read_sample
from perdure.pipeline.train.step import add_up, run_batches


@dataclass(frozen=True)
class Domain:
    """What a domain's held-out documents cost.

    Attributes:
        summary: `loss` (mean nats per token), `tokens`, `documents`, `bytes`, `bits_per_byte`, and `text_bits_per_byte`,
            which leaves the end-of-sequence tokens out.
        documents: The sums of every document, see `perdure.pipeline.evaluate.documents`.
    """

    summary: dict
    documents: pa.Table


def evaluate(
    model: torch.nn.Module,
    recipe: Recipe,
    domains: Iterable[str],
    data: dict[str, Path],
    device: torch.device,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Domain] | None:
    """Measures every domain's held-out documents; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: Batch sizes and `evaluation.max_tokens`.
        domains: Their names.
        data: Data directory per source.
        device: This rank's device.
        interrupted: Asked before every domain, and equal on all ranks: whether to give up.

    Returns:
        Each domain's result, equal on all ranks; None if it was interrupted. A part of a source of which no document is held
        out is left out.
    """
    model.eval()
    results: dict[str, Domain] | None = {}
    with torch.no_grad():
        for name in sorted(domains):
            if interrupted():
                results = None
                break
            result = _domain(model, recipe, name, data[source_of(name)], device)
            results |= {name: result} if result is not None else {}
    model.train()
    return results


def summaries(domains: dict[str, Domain]) -> dict[str, dict]:
    """What `eval.json` holds of each source."""
    return {name: domain.summary for name, domain in domains.items()}


def _domain(
    model: torch.nn.Module, recipe: Recipe, name: str, directory: Path, device: torch.device
) -> Domain | None:
    stream, held = open_heldout(directory, name)
    if not len(stream.ends):
        return None
    # Whole documents, so that their bytes are known.
    documents = count_measured(stream.ends, recipe.evaluation.max_tokens)
    tokens = int(stream.ends[documents - 1])
    seq_length, micro, ranks = (
        recipe.training.seq_length,
        recipe.training.micro_batch_size,
        recipe.parallel.data_parallel,
    )
    num_microbatches = -(-tokens // (seq_length * micro * ranks))
    ends = torch.from_numpy(stream.ends[:documents]).to(device)
    sums = torch.zeros(2, documents, dtype=torch.float64, device=device)

    def batches() -> Iterator[tuple[range, Batch]]:
        for number in range(num_microbatches):
            start = (number * ranks + mpu.get_data_parallel_rank()) * micro
            indices = range(start, start + micro)
            samples = [_masked_sample(stream, index, seq_length, tokens) for index in indices]
            yield indices, collate(samples, [0] * micro, [False] * micro, device)

    def observe(indices: range, nll: torch.Tensor, batch: Batch) -> None:
        places = torch.arange(indices.start * seq_length, indices.stop * seq_length, device=device)
        places = places[batch.valid.flatten()]
        losses = nll[batch.valid].double()
        document = torch.searchsorted(ends, places, right=True)
        sums[0].index_add_(0, document, losses)
        separators = places == ends[document] - 1
        sums[1].index_add_(0, document[separators], losses[separators])

    counts = run_batches(
        model, batches(), num_microbatches, recipe, stream.eos_id, 1, forward_only=True, observe=observe
    )
    assert counts.tokens[0] == tokens
    add_up(sums)
    loss, separator_loss = sums.cpu().numpy()
    held = held.slice(0, documents)
    num_bytes = int(held["num_bytes"].to_numpy().sum())
    summary = {
        "loss": counts.loss[0] / tokens,
        "tokens": tokens,
        "documents": documents,
        "bytes": num_bytes,
        "bits_per_byte": counts.loss[0] / math.log(2) / num_bytes,
        "text_bits_per_byte": float((loss - separator_loss).sum()) / math.log(2) / num_bytes,
    }
    columns = {
        "domain": [name] * documents,
        "tokens": held["num_tokens"],
        "bytes": held["num_bytes"],
        "topic": held["topic"],
        "language": held["language"],
        "loss": loss,
        "separator_loss": separator_loss,
    }
    return Domain(summary, pa.table(columns).cast(DOCUMENTS))


def _masked_sample(
    stream, index: int, seq_length: int, num_tokens: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """A held-out sample whose labels beyond the first `num_tokens` of the stream do not count."""
    if index * seq_length >= num_tokens:
        empty = np.full(seq_length + 1, stream.eos_id, np.int64)
        return empty, np.zeros(seq_length, np.int32), 0
    tokens, reference, num_valid = read_sample(stream, index, seq_length)
    return tokens, reference, min(num_valid, num_tokens - index * seq_length)
