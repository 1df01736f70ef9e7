"""Held-out loss of every domain, through the model and layout that train, and of every document of it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from perdure.pipeline.core.sending import sent
from perdure.pipeline.evaluate.documents import DOCUMENTS, Heldout, heldout
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.batch import Batch, Sample, blank_sample
from perdure.pipeline.train.counts import add_up
from perdure.pipeline.train.forward import score_rows
from perdure.pipeline.train.streams import open_heldout, read_sample


@dataclass(frozen=True)
class Domain:
    """What a domain's held-out documents cost.

    Attributes:
        summary: `loss` (mean nats per token), `tokens`, `documents`, `bytes`, `bits_per_byte`, and `text_bits_per_byte`,
            which leaves the end-of-sequence tokens out; `heldout_tokens` and `heldout_documents`, all that is held out,
            measured or not; `cut_documents`, of which a part is measured.
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
    chosen: Callable[[pa.Table], np.ndarray] | None = None,
) -> dict[str, Domain] | None:
    """Measures every domain's held-out documents; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: Batch sizes and `evaluation.max_tokens`.
        domains: Their names.
        data: Data directory per source.
        device: This rank's device.
        interrupted: Asked before every domain, and equal on all ranks: whether to give up.
        chosen: Told `Heldout.documents`, says which of them are measured, bool [documents]; None: all.

    Returns:
        Each domain's result, equal on all ranks; None if it was interrupted. A part of a source of which no document is held
        out is left out.
    """
    results: dict[str, Domain] = {}
    for name in sorted(domains):
        if interrupted():
            return None
        held = heldout(data[source_of(name)], name, recipe.evaluation.max_tokens)
        if chosen is not None:
            held = held.only(chosen(held.documents))
        result = _domain(model, recipe, name, data[source_of(name)], held, device)
        results |= {name: result} if result is not None else {}
    return results


def summaries(domains: dict[str, Domain]) -> dict[str, dict]:
    """What `eval.json` holds of each source."""
    return {name: domain.summary for name, domain in domains.items()}


def _domain(
    model: torch.nn.Module, recipe: Recipe, name: str, directory: Path, held: Heldout, device: torch.device
) -> Domain | None:
    documents = held.documents
    if not len(documents):
        return None
    seq_length = recipe.training.seq_length
    stream, rows = open_heldout(directory, held, seq_length)
    num_tokens = int(stream.ends[-1])
    assert stream.tails is not None
    ends, row, tails = (sent(torch.from_numpy(array), device) for array in (stream.ends, rows, stream.tails))
    sums = torch.zeros(2, len(documents), dtype=torch.float64, device=device)

    def read(index: int) -> Sample:
        """A sample of the stream; only labels of what is measured count, of those that the source's mask leaves."""
        places = np.arange(index * seq_length, (index + 1) * seq_length)
        if places[0] >= num_tokens:
            return blank_sample(stream.eos_id, seq_length)
        entry = np.searchsorted(stream.ends, places, side="right").clip(max=len(rows) - 1)
        sample, measured = read_sample(stream, index, seq_length), rows[entry] >= 0
        return sample._replace(counted=measured if sample.counted is None else measured & sample.counted)

    def observe(nll: torch.Tensor, batch: Batch) -> None:
        """Adds up by document. What does not count adds zero: to pick out what does, the host would have to know its size."""
        places = torch.arange(
            batch.indices.start * seq_length, batch.indices.stop * seq_length, device=device
        ).view(-1, seq_length)
        entry = torch.searchsorted(ends, places, right=True).clamp(max=len(rows) - 1)
        losses = nll.double().masked_fill(~batch.valid, 0)
        separators = places == ends[entry] - 1 + tails[entry]
        document = row[entry].clamp(min=0).flatten()
        sums[0].index_add_(0, document, losses.flatten())
        sums[1].index_add_(0, document, losses.masked_fill(~separators, 0).flatten())

    counts = score_rows(model, recipe, read, -(-num_tokens // seq_length), device, observe)
    tokens, num_bytes = (int(documents[name].to_numpy().sum()) for name in ("tokens", "bytes"))
    assert counts.tokens[0] == tokens
    add_up(sums)
    loss, separator_loss = sums.cpu().numpy()
    summary = {
        "loss": counts.loss[0] / tokens,
        "tokens": tokens,
        "documents": len(documents),
        "bytes": num_bytes,
        "bits_per_byte": counts.loss[0] / math.log(2) / num_bytes,
        "text_bits_per_byte": float((loss - separator_loss).sum()) / math.log(2) / num_bytes,
        "heldout_tokens": held.all_tokens,
        "heldout_documents": held.all_documents,
        "cut_documents": int((documents["tokens"].to_numpy() < documents["heldout_tokens"].to_numpy()).sum()),
    }
    columns = {
        "domain": [name] * len(documents),
        **{key: documents[key] for key in ("tokens", "bytes", "topic", "language")},
        "loss": loss,
        "separator_loss": separator_loss,
        "heldout_tokens": documents["heldout_tokens"],
        "hash": documents["hash"],
    }
    return Domain(summary, pa.table(columns).cast(DOCUMENTS))
