"""Conditions on the fields of the documents that a reader takes."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import field_validator, model_validator

from perdure.pipeline.recipe.section import Section

WHERE = "where"
"""The reason of documents that a reader's `where` leaves out: as many as it says, so that nobody need be told."""
PERIODS = {4: "-01-01", 7: "-01"}
"""What makes a date of a year (2024) and of a month (2024-05), by their length."""
_PERIOD = re.compile(r"[0-9]{4}(-[0-9]{2})?")
"""A year or a month; weeks (2024W05) are as long."""


class Condition(Section):
    """What a field should hold: one value, or one from a range of dates or numbers."""

    equals: str | bool | int | float | None = None
    """The value, of the same type."""
    at_least: str | int | float | None = None
    """The first date or number of the range. Dates are text: "2024", "2024-05", "2024-05-17" or with a time, as in
    "2024-05-17T12:00:00+02:00" (ISO 8601); a period stands for its beginning, and without an offset it is UTC."""
    below: str | int | float | None = None
    """The first date or number after the range, as for `at_least`."""

    @field_validator("at_least", "below")
    @classmethod
    def _readable(cls, bound: str | float | None) -> str | float | None:
        if isinstance(bound, str) and moment(bound) is None:
            raise ValueError('should be a number, or a date such as "2024-05-17"')
        return bound

    @model_validator(mode="after")
    def _one_of_them(self) -> "Condition":
        bounds = [bound for bound in (self.at_least, self.below) if bound is not None]
        if (self.equals is not None) == bool(bounds):
            raise ValueError("should have `equals`, or a range: `at_least`, `below` or both")
        if len({isinstance(bound, str) for bound in bounds}) == 2:
            raise ValueError("should have two dates or two numbers")
        if len(bounds) == 2 and not self._value(bounds[0]) < self._value(bounds[1]):
            raise ValueError("`at_least` should be less than `below`")
        return self

    @property
    def of_dates(self) -> bool:
        """Whether it is a range of dates."""
        return isinstance(self.at_least, str) or isinstance(self.below, str)

    def holds(self, value: Any) -> bool | None:
        """Whether a field's value fulfils it; None if the value is no date, or no number, and there is a range of them.

        A number may stand as text.
        """
        if self.equals is not None:
            return value == self.equals and isinstance(value, bool) == isinstance(self.equals, bool)
        if (found := self._value(value)) is None:
            return None
        first, end = self._value(self.at_least), self._value(self.below)
        return (first is None or found >= first) and (end is None or found < end)

    def excludes(self, other: "Condition") -> bool:
        """Whether no value fulfils both."""
        if self.equals is not None:
            return other.holds(self.equals) is not True
        if other.equals is not None:
            return other.excludes(self)
        ranges = ((self.below, other.at_least), (other.below, self.at_least))
        return self.of_dates == other.of_dates and any(
            self._value(end) <= self._value(first) for end, first in ranges if None not in (end, first)
        )

    def _value(self, value: Any) -> Any:
        return moment(value) if self.of_dates else _number(value)


Where = Mapping[str, Condition]
"""Conditions by field."""


def disjoint(one: Where, other: Where) -> bool:
    """Whether no document can fulfil both."""
    return any(one[field].excludes(other[field]) for field in one.keys() & other.keys())


def moment(value: Any) -> datetime | None:
    """The time at which a date begins; None if the text is not a date."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        found = datetime.fromisoformat(text + (PERIODS[len(text)] if _PERIOD.fullmatch(text) else ""))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _number(value: Any) -> float | int | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and not (isinstance(value, float) and math.isnan(value)) else None
