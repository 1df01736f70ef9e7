"""Where every field of a recipe belongs, for hints about those that stand somewhere else."""

import difflib
from collections import defaultdict
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from perdure.pipeline.core.hints import LONGEST
from perdure.pipeline.recipe.root import Recipe
from perdure.pipeline.recipe.section import Section

NAME = "<name>"
"""Stands for a name, or a number, that the recipe chooses."""
Place = tuple[str, ...]
MOST = 3
"""Places that a hint names."""


def belongs(path: list[str], root: type[BaseModel] = Recipe) -> str:
    """A hint for the end of a remedy about an unknown field: where it belongs, else which one may be meant."""
    *parent, field = path
    if places := homes(root).get(field):
        named = [
            _spelt(place, kinds)
            for place, kinds in sorted(places.items(), key=lambda item: _far(item[0], parent))
        ]
        more = f" and {len(named) - MOST} more" if len(named) > MOST else ""
        return f" here; `{field}` belongs to {', '.join(named[:MOST])}{more}"
    own = [name for name, places in homes(root).items() if any(_fits(place, parent) for place in places)]
    for known in (own, list(homes(root))):
        if match := difflib.get_close_matches(field[:LONGEST], known, n=1):
            return f"; did you mean `{match[0]}`?"
    return ""


def _spelt(place: Place, kinds: tuple[str, ...]) -> str:
    of_type = f" of type {', '.join(kinds)}" if kinds else ""
    return f"`{'.'.join(place)}`{of_type}" if place else "the top level"


def _fits(place: Place, parent: list[str]) -> bool:
    return len(place) == len(parent) and all(part in (NAME, given) for part, given in zip(place, parent))


def _far(place: Place, parent: list[str]) -> tuple[int, Place]:
    """Orders places by how much of their beginning they share with another."""
    shared = 0
    while shared < min(len(place), len(parent)) and place[shared] in (NAME, parent[shared]):
        shared += 1
    return -shared, place


@cache
def homes(root: type[BaseModel] = Recipe) -> dict[str, dict[Place, tuple[str, ...]]]:
    """By field, the sections that have it, and of which `type` they are where not all of that place have it."""
    found: dict[str, dict[Place, list[str]]] = defaultdict(lambda: defaultdict(list))
    kinds: dict[Place, set[str]] = defaultdict(set)

    def walk(section: type[BaseModel], place: Place) -> None:
        own = section.model_fields.get("type")
        kind = str(get_args(own.annotation)[0]) if own and get_origin(own.annotation) is Literal else ""
        kinds[place].add(kind)
        for name, field in section.model_fields.items():
            found[name][place].append(kind)
            for below, part in _sections(field.annotation):
                walk(part, (*place, name, *below))

    walk(root, ())
    return {
        name: {place: () if set(of) == kinds[place] else tuple(of) for place, of in places.items()}
        for name, places in found.items()
    }


def _sections(annotation: Any, below: Place = ()) -> list[tuple[Place, type[Section]]]:
    """The sections that a field can hold, and below which names."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [(below, annotation)] if issubclass(annotation, Section) else []
    inside = (NAME,) if get_origin(annotation) in (dict, list, tuple) else ()
    return [found for part in get_args(annotation) for found in _sections(part, (*below, *inside))]
