"""How many files the neediest process of a recipe holds open."""

from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.recipe import Recipe, Version

MAPS_PER_SHARD = 2
"""Descriptors that a mapped shard holds: its index and its values."""


MAPS_PER_STREAM = 2
"""Those of a stream's order."""


OTHERS = 512
"""Libraries, devices, sockets, logs, checkpoints that are being written."""


def files_needed(recipe: Recipe) -> int:
    """Open files that the neediest process of a recipe holds: a rank, a merge of all tasks' signatures or spools, or a plan's
    order."""
    ranks = [_of_rank(recipe, version) for version in recipe.versions.values()]
    spools = any(source.repository is not None for source in recipe.sources.values())
    return OTHERS + max([recipe.data.tasks * (MAPS_PER_SHARD if spools else 1), *ranks])


def _of_rank(recipe: Recipe, version: Version) -> int:
    """Shards of every source with their sidecars and the held-out ones of the domain that is measured; orders."""
    streams = [domain for domain, _ in members(version.mixture).values()]
    sources = {source_of(domain) for domain in streams}
    if version.mixture.replay is not None and version.mixture.replay.from_parents:
        sources, streams = set(recipe.sources), [*streams, *recipe.sources]
    sidecars = (
        len(version.selection.needed_sidecars) if version.selection else int(version.scored_by is not None)
    )
    shards = recipe.data.tasks * (len(sources) * (1 + sidecars) + 1)
    return MAPS_PER_SHARD * shards + MAPS_PER_STREAM * len(streams)
