"""Which checkpoints of a version are kept for good."""

from typing import Annotated

from pydantic import Discriminator, Tag

from perdure.pipeline.recipe.section import Positive, Section


class KeepEvery(Section):
    """Keeps the checkpoints of equally distant steps for good."""

    every: Positive
    """Steps between those that are kept: N keeps those of N, 2 N, 3 N, ..."""


Keep = Annotated[
    Annotated[tuple[Positive, ...], Tag("[list]")] | Annotated[KeepEvery, Tag("[mapping]")],
    Discriminator(lambda value: "[mapping]" if isinstance(value, dict | KeepEvery) else "[list]"),
]
"""A list of steps, or `{every: N}`."""
