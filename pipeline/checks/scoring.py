"""Checks of how reference models score text."""

from collections.abc import Iterator

from perdure.pipeline.errors import Problem
from perdure.pipeline.recipe import Recipe


def windows(recipe: Recipe) -> Iterator[Problem]:
    """Windows that move on."""
    context, overlap = recipe.scoring.windows(recipe.training.seq_length)
    if overlap >= context:
        yield Problem("scoring.overlap", overlap, f"should be below the context of {context:,} tokens")
