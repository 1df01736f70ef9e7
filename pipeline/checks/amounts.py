"""Checks of how much a recipe asks for all versions together, so that what follows ends soon."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress

from perdure.pipeline.checks.lenient import BrokenField
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import Recipe, Version
from perdure.pipeline.recipe.remembered import asked_once, parent_of

Problems = Iterator[Problem]
MOST_RATES = 1_000_000
"""Steps of all versions whose learning rates are looked through for the one at which a switch comes."""
MOST_PLACES = 200_000
"""Places in the mixtures of all versions; each costs about a tenth of a millisecond to foresee."""


def places(recipe: Recipe) -> Problems:
    """Checks that mixtures have at most `MOST_PLACES` places in all, those that `replay.from_parents` finds included.

    A tree of versions is walked with what the ancestors of the one at hand have named, so that a thousand of them cost no
    more than their names.
    """
    children: dict[str | None, list[str]] = defaultdict(list)
    for name, version in recipe.versions.items():
        with suppress(BrokenField):
            children[parent_of(version)].append(name)
    named: Counter[str] = Counter()
    total, walk = 0, [(name, True) for name in children[None]]
    while walk:
        name, enters = walk.pop()
        replay, new = recipe.versions[name].mixture.replay, set(new_domains(recipe.versions[name]))
        own = new | set(replay.sources) if replay else new
        if enters:
            total += len(new) + (len(named) if replay and replay.from_parents else len(own - new))
            named.update(own)
            walk += [(name, False), *((child, True) for child in children[name])]
        else:
            named.subtract(own)
            for domain in own:
                if not named[domain]:
                    del named[domain]
    if total > MOST_PLACES:
        remedy = (
            "should name fewer sources over all versions together, those that `replay.from_parents` takes from ancestors "
            f"included: at most {MOST_PLACES:,}"
        )
        yield Problem("versions", f"{total:,} places in mixtures", remedy)


@asked_once
def too_long(recipe: Recipe) -> set[str]:
    """Versions whose switches `at_lr` would have more learning rates looked through than `MOST_RATES`, with those before."""
    total, found = 0, set()
    for name, version in recipe.versions.items():
        with suppress(BrokenField):
            if any(switch.at_lr is not None for switch in version.mixture.switches):
                total += num_steps(recipe, version)
                found |= {name} if total > MOST_RATES else set()
    return found


def new_domains(version: Version) -> list[str]:
    """Domains that a version reads as new data, at any time."""
    later = [domain for switch in version.mixture.switches for domain in switch.sources]
    return [*version.mixture.sources, *later]
