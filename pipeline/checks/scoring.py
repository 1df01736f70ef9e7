"""Checks of how reference models score text."""

from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.model.shape import max_positions
from perdure.pipeline.recipe import HuggingFaceModel, Recipe


def windows(recipe: Recipe) -> Iterator[Problem]:
    """Windows that move on."""
    context, overlap = recipe.scoring.windows(recipe.training.seq_length)
    if overlap >= context:
        yield Problem("scoring.overlap", overlap, f"should be below the context of {context:,} tokens")


def positions(recipe: Recipe) -> Iterator[Problem]:
    """No model beyond the positions that it knows, where its losses mean nothing."""
    seq_length, start = recipe.training.seq_length, None
    if isinstance(recipe.model, HuggingFaceModel):
        start = _positions(recipe.model.path)
        if start is not None and seq_length > start:
            yield Problem(
                "training.seq_length",
                seq_length,
                f"{recipe.model.path} knows {start:,} positions (`max_position_embeddings`); lower it, or write down in "
                "the model's `config.json` how far its rotary embedding is to reach",
            )
    context, _ = recipe.scoring.windows(seq_length)
    named = [version.mixture.perplexity_model for version in recipe.versions.values()]
    named += [version.selection.reference for version in recipe.versions.values() if version.selection]
    for model in dict.fromkeys(name for name in named if name is not None):
        # A version knows the samples that it was trained on, and what its start knew.
        known = _positions(Path(model)) if "/" in model else max(seq_length, start or 0)
        if known is not None and context > known:
            yield Problem(
                "scoring.context", context, f"{model} knows {known:,} positions; should be at most that"
            )


def _positions(model: Path) -> int | None:
    try:
        return max_positions(model)
    except PerdureError:  # a problem of its own
        return None
