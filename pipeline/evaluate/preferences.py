"""Held-out pairs of answers: how likely a model finds the preferred one, by itself and beside a reference."""

from pathlib import Path
from typing import Any

import numpy as np

from perdure.pipeline.core.shards import label_sides, open_shard, second_half
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.evaluate.infill import Row
from perdure.pipeline.evaluate.probe_scores import mean_interval
from perdure.pipeline.plan.lineage import parent_of
from perdure.pipeline.recipe import Preference, Recipe


def pair_sources(recipe: Recipe) -> list[str]:
    """The sources whose documents are pairs of answers."""
    return [name for name, source in recipe.sources.items() if source.has_pairs]


def pair_rows(recipe: Recipe, source: str, data: Path, tokenizer: Path) -> list[tuple[Row, Row]]:
    """The chosen and the rejected half of held-out pairs, up to `evaluation.max_tokens` tokens in all.

    What counts of a half is its answer, from the first label to the last. Pairs with a half longer than a sample are left out.

    Args:
        recipe: The recipe.
        source: The source's name.
        data: Its directory of shards.
        tokenizer: The tokenizer's directory.
    """
    decode = load_tokenizer(tokenizer).tokenizer.decode
    documents = heldout(data, source, recipe.evaluation.max_tokens).documents
    found: list[tuple[Row, Row]] = []
    room = recipe.evaluation.max_tokens
    for shard, sequence in zip(*(documents[name].to_pylist() for name in ("shard", "sequence"))):
        tokens, mask = (
            opened.values[opened.start(sequence) :][: int(opened.lengths[sequence])]
            for opened in (open_shard(data / f"heldout.{shard:05d}{kind}") for kind in ("", ".mask"))
        )
        half = second_half(mask)
        first, second = (_row(tokens[part], mask[part], decode) for part in (slice(half), slice(half, None)))
        room -= len(first.tokens) + len(second.tokens)
        if room < 0 and found:
            break
        if max(len(first.tokens), len(second.tokens)) <= recipe.training.seq_length:
            found.append((first, second))
    return found


def _row(tokens: np.ndarray, mask: np.ndarray, decode: Any) -> Row:
    labels = np.flatnonzero(label_sides(mask))
    begin, stop = int(labels[0]), int(labels[-1]) + 1
    answer = tokens[begin:stop].tolist()
    return Row(tokens[:stop].tolist(), len(answer), max(1, len(decode(answer).encode())))


def compare_answers(rows: list[tuple[Row, Row]], losses: np.ndarray, seed: int) -> dict[str, Any]:
    """Compares the likelihoods of both answers of every pair.

    Args:
        rows: The pairs.
        losses: float64 [2 x pairs], summed loss of each answer in nats, chosen and rejected in turn.
        seed: Of the resamples.

    Returns:
        `pairs`; `win_rate`, how often the chosen answer has the higher log-likelihood per UTF-8 byte, as choices of probes are
        compared, and its `interval` (bootstrap over pairs); `margins`, by pair the difference of summed log-likelihoods in
        nats, chosen less rejected, and their mean `margin`.
    """
    sizes = np.array([[half.num_bytes for half in pair] for pair in rows])
    chosen, rejected = (losses.reshape(-1, 2) / sizes).T
    won = (chosen < rejected).astype(float)
    margins = losses[1::2] - losses[::2]
    return {
        "pairs": len(rows),
        "win_rate": float(won.mean()),
        "interval": mean_interval(won, seed),
        "margin": float(margins.mean()),
        "margins": margins.tolist(),
    }


def reference_row(recipe: Recipe, source: str) -> int | None:
    """The row of the loss matrix of the model that the first preference version on a source compares with; None without one."""
    rows: dict[str | None, int] = {name: row for row, name in enumerate(recipe.versions, start=1)}
    for version in recipe.versions.values():
        if isinstance(version.objective, Preference) and source in version.mixture.sources:
            return rows.get(version.objective.reference or parent_of(version))
    return None


def against_reference(
    rows: list[dict[str, Any] | None], reference: int | None
) -> list[dict[str, Any] | None]:
    """Adds to each model's numbers its `accuracy`: how often its margin is above the reference's, a tie being half.

    It is the accuracy of DPO's implicit rewards (Rafailov et al. 2023, arXiv 2305.18290), measured with one reference for all
    versions. None if the reference is not measured.

    Args:
        rows: From `compare_answers`, by row of the loss matrix.
        reference: Which row is the reference.
    """
    before = rows[reference] if reference is not None else None
    return [
        row
        and {key: number for key, number in row.items() if key != "margins"}
        | {"accuracy": _accuracy(row["margins"], before["margins"]) if before else None}
        for row in rows
    ]


def _accuracy(margins: list[float], before: list[float]) -> float | None:
    """How often a margin is above another; None if they are not of the same pairs."""
    if len(margins) != len(before):
        return None
    return float((np.sign(np.subtract(margins, before)) / 2 + 0.5).mean())
