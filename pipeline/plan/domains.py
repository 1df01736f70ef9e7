"""Names of domains: a domain is a source, or its part with a language or topic.

`web` is a source, `web/science` its documents on science, `web@de` those in German, `web@de/science` both. Wherever a
mixture names a source, it may name a domain; each is ordered, consumed and measured on its own.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import product
from typing import NamedTuple

from perdure.pipeline.plan.mixture import members
from perdure.pipeline.recipe import Recipe

_ANY = object()
_NAME = re.compile(r"([^@/]+)(?:@([^/]+))?(?:/(.+))?", re.DOTALL)
PLURALS = {"language": "languages", "topic": "topics"}
"""Where a data manifest's `counts` have documents and tokens by label, by kind of label."""


class Domain(NamedTuple):
    """The parsed name of a domain; None for labels that it does not have."""

    source: str
    language: str | None
    topic: str | None

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its documents by kind; empty for a whole source."""
        return {kind: label for kind in PLURALS if (label := getattr(self, kind)) is not None}


def parse(name: str) -> Domain:
    """Reads `<source>[@<language>][/<topic>]`; anything else is taken for a source's name."""
    match = _NAME.fullmatch(name)
    return Domain(*match.groups()) if match else Domain(name, None, None)


def source_of(name: str) -> str:
    """The source of a domain."""
    return parse(name).source


def overlapping(names: Iterable[str]) -> Callable[[str], Iterator[str]]:
    """Looks domains up among some, each named once: those that a document of it can belong to as well, in their order.

    It takes a step for each that it finds, and not for each that there is.
    """
    index: dict[tuple, list[tuple[int, str]]] = defaultdict(list)
    for number, name in enumerate(names):
        source, language, topic = parse(name)
        for labels in product((language, _ANY), (topic, _ANY)):
            index[source, *labels].append((number, name))

    def found(name: str) -> Iterator[str]:
        source, language, topic = parse(name)
        fitting = ((_ANY,) if label is None else (label, None) for label in (language, topic))
        lists = (index.get((source, *labels), []) for labels in product(*fitting))
        return (other for _, other in merge(*lists))

    return found


def measured_domains(recipe: Recipe) -> list[str]:
    """The domains that versions are measured on: every source, and every part that a mixture names."""
    named = (
        domain for version in recipe.versions.values() for domain, _ in members(version.mixture).values()
    )
    return list(dict.fromkeys([*recipe.sources, *named]))
