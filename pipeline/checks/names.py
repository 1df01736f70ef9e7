"""Names that files are called after, within what file systems hold."""

import os
from collections.abc import Iterator
from pathlib import Path

from perdure.pipeline.core.errors import Problem
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.section import MAX_NAME

HASHED = "@12345678"
TEMPORARY = ".12345678"
"""What names get on top: a hash, and until a file is whole a dot before and this behind."""
IN_PART = "+12345678"
"""What scores of some documents get besides."""


def own_names(recipe: Recipe) -> Iterator[Problem]:
    """Names of the run, of sources and of versions."""
    longest = {"name": len(recipe.name)}
    longest |= {f"sources.{name}": len(f".{name}{HASHED}.json{TEMPORARY}") for name in recipe.sources}
    longest |= {f"versions.{name}": len(f".{name}.html{TEMPORARY}") for name in recipe.versions}
    for where, length in longest.items():
        yield from _too_long(where, where.partition(".")[2] or recipe.name, length)


def score_names(recipe: Recipe) -> Iterator[Problem]:
    """Scores of a source by a model, which are called after both while they are made."""
    for name, version in recipe.versions.items():
        selection = version.selection
        for field, model in (
            ("selection.reference", selection.reference if selection else None),
            ("objective.reference", None if selection else version.scored_by),
            ("mixture.perplexity_model", version.mixture.perplexity_model),
        ):
            sources = {source_of(domain) for domain, _ in members(version.mixture).values()}
            if model is None or not sources:  # no sources: another check's matter
                continue
            label = Path(os.path.realpath(model)).name if "/" in model else model
            source = max(sources, key=len)
            length = len(f"data.{source}{HASHED}.scores.") + len(label.encode()) + len(HASHED + IN_PART)
            yield from _too_long(f"versions.{name}.{field}", model, length, f", with that of {source}")


def _too_long(where: str, name: str, length: int, beside: str = "") -> Iterator[Problem]:
    if length > MAX_NAME:
        surplus = length - MAX_NAME
        remedy = f"should be {surplus} letters shorter{beside}: files are named after it, and file systems hold {MAX_NAME}"
        yield Problem(where, name, remedy)


CHECKS = (own_names, score_names)
