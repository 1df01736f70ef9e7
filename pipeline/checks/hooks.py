"""Checks of what acts on a version's weights between its steps."""

from collections.abc import Iterator

from perdure.pipeline.core.errors import Problem
from perdure.pipeline.recipe import Recipe, Version

Problems = Iterator[Problem]


def one_leash(recipe: Recipe, name: str, version: Version) -> Problems:
    """Checks that Elastic Reset and Reptile do not both move the weights back."""
    if version.elastic_reset and version.reptile:
        remedy = "should not stand beside elastic_reset: each would undo what the other keeps; choose one"
        yield Problem(f"versions.{name}.reptile", version.reptile.model_dump(), remedy)


CHECKS = (one_leash,)
