"""Answers about a recipe and its versions, computed once in a scope."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TypeVar

from perdure.pipeline.recipe import Init, Merge, Recipe, Version

Answer = TypeVar("Answer")
_answers: ContextVar[dict | None] = ContextVar("_answers", default=None)
"""What was told of versions so far, while somebody asks; None while nobody does, since plans on disk change some of it."""


@contextmanager
def remembering() -> Iterator[dict]:
    """Keeps what is asked of versions while it lasts, so that a lineage of a thousand is gone through once."""
    if (known := _answers.get()) is not None:
        yield known
        return
    known = {}
    token = _answers.set(known)
    try:
        yield known
    finally:
        _answers.reset(token)


def parent_of(version: Version) -> str | None:
    """The version that another starts from, the first one of several; None for the initial model."""
    return None if isinstance(version.start, Init) else version.start.parent


def parents_of(version: Version) -> tuple[str, ...]:
    """All versions whose weights another is made of, the one that it follows first."""
    if isinstance(version.start, Merge):
        return version.start.models
    parent = parent_of(version)
    return () if parent is None else (parent,)


def asked_once(function: Callable[[Recipe], Answer]) -> Callable[[Recipe], Answer]:
    """A function of a recipe, kept like those of versions; what it returns is shared, and not to be changed."""

    @wraps(function)
    def ask(recipe: Recipe) -> Answer:
        if (known := _answers.get()) is None:
            return function(recipe)
        known[id(recipe)] = recipe  # which keeps its id from others
        if (function, id(recipe)) not in known:
            known[function, id(recipe)] = function(recipe)
        return known[function, id(recipe)]

    return ask


def remembered(function: Callable[[Recipe, str], Answer]) -> Callable[[Recipe, str], Answer]:
    """A function of a version that asks itself of the parent: the oldest ancestor is asked first, so that nothing recurs
    deeply.

    What it returns is shared, and not to be changed.
    """

    @wraps(function)
    def ask(recipe: Recipe, name: str) -> Answer:
        with remembering() as known:
            known[id(recipe)] = recipe  # which keeps its id from others
            missing: list[str] = []
            version: str | None = name
            while version in recipe.versions and (function, id(recipe), version) not in known:
                missing.append(version)
                version = parent_of(recipe.versions[version])
            for version in reversed(missing):
                known[function, id(recipe), version] = function(recipe, version)
            return known[function, id(recipe), name]

    return ask
