"""Held-out pairs of answers: how often a model finds the preferred one likelier, without a reference and without sampling."""

from pathlib import Path
from typing import Any

import numpy as np

from perdure.pipeline.core.shards import label_sides, open_shard, second_half
from perdure.pipeline.core.tokenizers import load_tokenizer
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.evaluate.infill import Row
from perdure.pipeline.evaluate.probe_scores import mean_interval
from perdure.pipeline.recipe import Recipe


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


def win_rate(rows: list[tuple[Row, Row]], losses: np.ndarray, seed: int) -> dict[str, Any]:
    """How often the chosen answer is the likelier one, by its log-likelihood per UTF-8 byte, as choices of probes are compared.

    Args:
        rows: The pairs.
        losses: float64 [2 x pairs], summed loss of each answer in nats, chosen and rejected in turn.
        seed: Of the resamples.

    Returns:
        `pairs`; `win_rate` and its `interval` (bootstrap over pairs); `margin`, the mean difference of summed log-likelihoods
        in nats, chosen less rejected.
    """
    sizes = np.array([[half.num_bytes for half in pair] for pair in rows])
    chosen, rejected = (losses.reshape(-1, 2) / sizes).T
    won = (chosen < rejected).astype(float)
    margin = float((losses[1::2] - losses[::2]).mean())
    return {
        "pairs": len(rows),
        "win_rate": float(won.mean()),
        "interval": mean_interval(won, seed),
        "margin": margin,
    }
