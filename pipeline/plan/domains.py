"""Names of domains: a domain is a source, or its part with a language, topic or date.

`web` is a source, `web/science` its documents on science, `web@de` those in German, `web@de/science` both,
`web[2023-01..2023-06]` those from January to June 2023. Wherever a mixture names a source, it may name a domain; each is
ordered, consumed and measured on its own. `web+prefix` is `web` measured with the prefixes of its documents.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from heapq import merge
from itertools import product
from typing import NamedTuple

from perdure.pipeline.plan.mixture import members
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.periods import Period, period

_ANY = object()
_NAME = re.compile(
    r"([^@/\[\]]+?)(?:@([^/\[\]]+?))?(?:/(.+?))?(?:\[([^\[\]]*)\.\.([^\[\]]*)\])?(\+prefix)?",
    re.DOTALL,
)
PREFIXED = "+prefix"
"""Ends the name under which a source is measured with the prefixes of its documents: `web+prefix`."""
PLURALS = {"language": "languages", "topic": "topics"}
"""Where a data manifest's `counts` have documents and tokens by label, by kind of label."""


class Domain(NamedTuple):
    """The parsed name of a domain; None for labels that it does not have.

    Attributes:
        source: The source.
        language: Of its documents.
        topic: Of its documents.
        since: The date in which the first of them lie, as written; empty: no bound.
        until: The date in which the last of them lie; None, as for `since`, if the name tells no dates.
        with_prefix: `+prefix` if they are measured with the prefix that their source gives them.
    """

    source: str
    language: str | None = None
    topic: str | None = None
    since: str | None = None
    until: str | None = None
    with_prefix: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its documents by kind; empty for a whole source."""
        return {kind: label for kind in PLURALS if (label := getattr(self, kind)) is not None}

    @property
    def is_part(self) -> bool:
        """Whether it is not all of its source."""
        return bool(self.labels) or self.has_dates

    @property
    def has_dates(self) -> bool:
        """Whether its documents are those of a range of dates."""
        return self.since is not None

    @property
    def days(self) -> Period | None:
        """All days of its dates, both ends included; None if it has no dates, or one of them is none."""
        first, last = period(self.since or None), period(self.until or None)
        if not self.has_dates or (self.since and first is None) or (self.until and last is None):
            return None
        return Period(first.first if first else date.min, last.last if last else date.max)

    def holds(self, text: str | None) -> bool:
        """Whether a document's date lies in its dates as a whole."""
        found, days = period(text), self.days
        return found is not None and days is not None and found.within(days)


def parse(name: str) -> Domain:
    """Reads `<source>[@<language>][/<topic>]`, perhaps with `[<date>..<date>]` behind it; anything else is a source's name."""
    match = _NAME.fullmatch(name)
    return Domain(*match.groups()) if match else Domain(name)


def source_of(name: str) -> str:
    """The source of a domain."""
    return parse(name).source


def overlapping(names: Iterable[str]) -> Callable[[str], Iterator[str]]:
    """Looks domains up among some, each named once: those that a document of it can belong to as well, in their order.

    It takes a step for each that it finds, and not for each that there is.
    """
    index: dict[tuple, list[tuple[int, str]]] = defaultdict(list)
    for number, name in enumerate(names):
        source, language, topic, *_ = parse(name)
        for labels in product((language, _ANY), (topic, _ANY)):
            index[source, *labels].append((number, name))

    def found(name: str) -> Iterator[str]:
        source, language, topic, *_ = domain = parse(name)
        fitting = ((_ANY,) if label is None else (label, None) for label in (language, topic))
        lists = (index.get((source, *labels), []) for labels in product(*fitting))
        return (other for _, other in merge(*lists) if _meet(domain.days, parse(other).days))

    return found


def _meet(one: Period | None, other: Period | None) -> bool:
    """Whether a document can lie in both ranges of dates; None is no range."""
    return one is None or other is None or (one.first <= other.last and other.first <= one.last)


def measured_domains(recipe: Recipe) -> list[str]:
    """The domains that versions are measured on: every source, every part that a mixture names, and sources with prefixes."""
    named = (
        domain for version in recipe.versions.values() for domain, _ in members(version.mixture).values()
    )
    prefixed = (f"{name}{PREFIXED}" for name, source in recipe.sources.items() if source.prefix is not None)
    return list(dict.fromkeys([*recipe.sources, *named, *prefixed]))
