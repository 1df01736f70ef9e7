"""How many files a process may hold open: allowed at its start, and reckoned from a recipe before it needs them."""

import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.pipeline.recipe import Recipe, Version

ENOUGH = 1 << 20
"""More is never asked for, because some programs go through all that are allowed."""
MAPS_PER_SHARD = 2
"""Descriptors that a mapped shard holds: its index and its values."""
MAPS_PER_STREAM = 2
"""Those of a stream's order."""
OTHERS = 512
"""Libraries, devices, sockets, logs, checkpoints that are being written."""


def allow_open_files() -> int:
    """Raises this process's soft limit of open files, often 1,024, to the hard one; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def files_needed(recipe: "Recipe") -> int:
    """Open files that the neediest process of a recipe holds: a rank, a merge of all tasks' signatures, or a plan's order."""
    ranks = [_of_rank(recipe, version) for version in recipe.versions.values()]
    return OTHERS + max([recipe.data.tasks, *ranks])


def _of_rank(recipe: "Recipe", version: "Version") -> int:
    """Shards of every source with their sidecars and the held-out ones of the domain that is measured; orders."""
    from perdure.pipeline.domains import source_of
    from perdure.pipeline.mixture import members

    streams = [domain for domain, _ in members(version.mixture).values()]
    sources = {source_of(domain) for domain in streams}
    if version.mixture.replay is not None and version.mixture.replay.from_parents:
        sources, streams = set(recipe.sources), [*streams, *recipe.sources]
    sidecars = len(version.selection.sidecars) if version.selection else 0
    shards = recipe.data.tasks * (len(sources) * (1 + sidecars) + 1)
    return MAPS_PER_SHARD * shards + MAPS_PER_STREAM * len(streams)
