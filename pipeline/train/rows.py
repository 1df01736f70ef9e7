"""Losses of single rows, of which the last tokens are scored: choices of probes, middles to be filled in, answers."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from perdure.pipeline.evaluate.infill import Row, infill_rows, infilled_sources
from perdure.pipeline.evaluate.preferences import compare_answers, pair_rows, pair_sources
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.batch import Batch, Sample, blank_sample
from perdure.pipeline.train.counts import add_up
from perdure.pipeline.train.forward import score_rows

WIDTH = 64
"""Rows are padded to a multiple of this many tokens."""


def row_losses(
    model: torch.nn.Module, recipe: Recipe, rows: list[Row], eos_id: int, device: torch.device
) -> torch.Tensor:
    """Summed loss of the scored tokens of every row; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: Batch sizes and layout.
        rows: At least one; what is longer than a sample is cut on the left.
        eos_id: Stands before every row.
        device: This rank's device.

    Returns:
        float64 [rows], nats, equal on all ranks.
    """
    longest, tensor = recipe.training.seq_length, layout_of(recipe).tensor
    width = min(-(-max(len(row.tokens) for row in rows) // (WIDTH * tensor)) * WIDTH * tensor, longest)
    sums = torch.zeros(len(rows), dtype=torch.float64, device=device)

    def observe(nll: torch.Tensor, batch: Batch) -> None:
        for place, index in enumerate(batch.indices):
            if index < len(rows):
                stop = min(len(rows[index].tokens), width)
                sums[index] = nll[place, stop - rows[index].scored : stop].double().sum()

    narrow = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seq_length": width})})
    score_rows(model, narrow, lambda index: _sample(rows, index, width, eos_id), len(rows), device, observe)
    add_up(sums)
    return sums


def measure_infills(
    model: torch.nn.Module,
    recipe: Recipe,
    data: Mapping[str, Path],
    tokenizer: Path,
    eos_id: int,
    device: torch.device,
) -> dict[str, dict]:
    """Losses of the middles of held-out documents, by source that trains on documents to be filled in; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: The recipe.
        data: By source its directory of shards.
        tokenizer: The tokenizer's directory.
        eos_id: Stands before every document.
        device: This rank's device.

    Returns:
        `loss` (mean nats per token of the middles), `tokens`, `documents`, `bytes`, `bits_per_byte`; equal on all ranks. A
        source of which no document has a middle is left out.
    """
    found = {}
    for source in infilled_sources(recipe):
        if not (rows := infill_rows(recipe, source, data[source], tokenizer)):
            continue
        total = row_losses(model, recipe, rows, eos_id, device).sum().item()
        tokens, num_bytes = (sum(getattr(row, key) for row in rows) for key in ("scored", "num_bytes"))
        sizes = {"tokens": tokens, "documents": len(rows), "bytes": num_bytes}
        found[source] = {"loss": total / tokens, "bits_per_byte": total / math.log(2) / num_bytes} | sizes
    return found


def measure_preferences(
    model: torch.nn.Module,
    recipe: Recipe,
    data: Mapping[str, Path],
    tokenizer: Path,
    eos_id: int,
    device: torch.device,
) -> dict[str, dict]:
    """How likely the model finds the preferred answer beside the other, by source of pairs; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: The recipe.
        data: By source its directory of shards.
        tokenizer: The tokenizer's directory.
        eos_id: Stands before every prompt.
        device: This rank's device.

    Returns:
        As `evaluate.preferences.compare_answers`, equal on all ranks. A source without held-out pairs is left out.
    """
    found = {}
    for source in pair_sources(recipe):
        if rows := pair_rows(recipe, source, data[source], tokenizer):
            halves = [half for pair in rows for half in pair]
            losses = row_losses(model, recipe, halves, eos_id, device).cpu().numpy()
            found[source] = compare_answers(rows, losses, recipe.seed)
    return found


def _sample(rows: list[Row], index: int, width: int, eos_id: int) -> Sample:
    """A row as a padded sample; there is nothing beyond the last."""
    blank = blank_sample(eos_id, width)
    if index >= len(rows):
        return blank
    found = [eos_id, *rows[index].tokens][-(width + 1) :]
    blank.tokens[: len(found)] = found
    documents = (len(found), width - len(found)) if len(found) < width else (width,)
    return blank._replace(num_valid=len(found) - 1, documents=documents)
