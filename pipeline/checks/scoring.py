"""Checks of how reference models score text."""

from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError, Problem
from perdure.pipeline.model.shape import max_positions
from perdure.pipeline.recipe import HuggingFaceModel, Recipe


def windows(recipe: Recipe) -> Iterator[Problem]:
    """Checks that scoring windows overlap by less than their length."""
    context, overlap = recipe.scoring.windows(recipe.training.seq_length)
    if overlap >= context:
        yield Problem("scoring.overlap", overlap, f"should be below the context of {context:,} tokens")


def positions(recipe: Recipe) -> Iterator[Problem]:
    """Checks that no context exceeds `max_position_embeddings` of the model that reads it."""
    seq_length, start = recipe.training.seq_length, None
    if isinstance(recipe.model, HuggingFaceModel):
        start = _positions(recipe.model.path)
        if start is not None and seq_length > start:
            yield Problem(
                "training.seq_length",
                seq_length,
                f"exceeds max_position_embeddings ({start:,}) of {recipe.model.path}; lower it, or set `rope_scaling` in the "
                "model's `config.json`",
            )
    context, _ = recipe.scoring.windows(seq_length)
    named = [version.mixture.perplexity_model for version in recipe.versions.values()]
    named += [version.selection.reference for version in recipe.versions.values() if version.selection]
    named += [version.scored_by for version in recipe.versions.values() if not version.selection]
    for model in dict.fromkeys(name for name in named if name is not None):
        # A version knows the samples that it was trained on, and what its start knew.
        known = _positions(Path(model)) if "/" in model else max(seq_length, start or 0)
        if known is not None and context > known:
            remedy = f"exceeds max_position_embeddings ({known:,}) of {model}; lower it"
            yield Problem("scoring.context", context, remedy)


def _positions(model: Path) -> int | None:
    try:
        return max_positions(model)
    except PerdureError:  # a problem of its own
        return None
