"""What cutting or packing a source's documents into samples comes to, by the lengths of finished data."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.stage import finished_data
from perdure.pipeline.plan.domains import parse, source_of
from perdure.pipeline.plan.order import shard_lengths
from perdure.pipeline.plan.packing import count_samples, cut_pieces, next_fit, packing_of, split_counts
from perdure.pipeline.plan.parts import dated
from perdure.pipeline.recipe import MixtureSource, Recipe


def packed(recipe: Recipe, domain: str, member: MixtureSource) -> dict[str, Any] | None:
    """How a place in a mixture would fill its samples; None before its data is there.

    Exact for `best_fit`. For `next_fit` of shuffled documents about right: they are packed in the order of the shards. In a
    stream a document of n tokens is cut with a chance of (n - 1) / seq_length, the mean over where it may begin.

    Returns:
        `packing` and `overlong`; `samples` of an epoch; `padding`, the share of their labels that is; `cut`, the share of
        documents in several samples; `dropped_documents` and `dropped_tokens`.
    """
    try:
        data = finished_data(recipe).get(source_of(domain))
    except PerdureError:
        return None  # an input is missing, so that nobody can tell which data is the recipe's
    if data is None:
        return None
    return _packed(data, domain, packing_of(recipe, domain, member), recipe.training.seq_length)


@lru_cache(maxsize=256)
def _packed(data: Path, domain: str, how: tuple[str, str] | None, size: int) -> dict[str, Any] | None:
    lengths = _lengths(data, domain)
    if not len(lengths):
        return None
    told: dict[str, Any] = {"packing": how and how[0], "overlong": how and how[1]}
    if how is None:
        samples, tokens = -(-int(lengths.sum()) // size), int(lengths.sum())
        cut = float(np.minimum((lengths - 1) / size, 1).mean())
        dropped = lengths[:0]
    else:
        long = lengths > size
        cut, dropped = (float(long.mean()), lengths[:0]) if how[1] == "cut" else (0.0, lengths[long])
        kept = lengths if how[1] == "cut" else lengths[~long]
        tokens = int(kept.sum())
        if how[0] == "best_fit":
            samples = count_samples(split_counts(np.bincount(lengths), size, how[1]), size)
        else:
            samples = int(next_fit(cut_pieces(kept, size)[2], size)[-1]) + 1 if len(kept) else 0
    return told | {
        "samples": samples,
        "padding": 1 - tokens / (samples * size) if samples else 0.0,
        "cut": cut,
        "dropped_documents": len(dropped),
        "dropped_tokens": int(dropped.sum()),
    }


def _lengths(data: Path, domain: str) -> np.ndarray:
    """Tokens of a domain's training documents in the order of the shards, int64 [documents]."""
    named = parse(domain)
    if not named.is_part:
        return np.concatenate(shard_lengths(data)).astype(np.int64)
    from pyarrow import parquet

    rows = [("split", "==", "train"), *((kind, "==", label) for kind, label in named.labels.items())]
    dates = ["date"] if named.has_dates else []
    table = parquet.read_table(data / "docs.parquet", columns=["num_tokens", *dates], filters=rows)
    lengths = table["num_tokens"].to_numpy().astype(np.int64)
    return lengths[dated(np.array(table["date"].to_pylist(), object), named)] if dates else lengths


def packed_words(told: dict[str, Any] | None) -> str:
    """What `packed` says, for the console; empty before data is there."""
    if told is None:
        return ""
    if told["packing"] is None:
        return f", cut into a stream (about {told['cut']:.1%} of documents lie in several samples)"
    about = "about " if told["packing"] == "next_fit" else ""
    words = f", packed whole by {told['packing']} ({about}{told['padding']:.1%} padding"
    words += f", {told['cut']:.1%} of documents cut" if told["overlong"] == "cut" else ""
    dropped = told["dropped_documents"]
    lost = (
        f", {dropped:,} documents of {told['dropped_tokens']:,} tokens are too long and dropped"
        if dropped
        else ""
    )
    return f"{words}{lost})"
