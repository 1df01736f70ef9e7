"""Dates of documents, questions and models: periods of days, as precise as what was written."""

import math
import re
from datetime import UTC, date, timedelta
from typing import Any, NamedTuple

from perdure.pipeline.recipe.where import PERIODS, moment

PRECISIONS = {4: "year", 7: "month", 10: "day"}
"""What a date of so many characters names."""
_WEEK = re.compile(r"[0-9]{4}-?W")
"""How a week begins (ISO 8601: 2024-W05, 2024W05, and its days), which is no date here."""


class Period(NamedTuple):
    """Consecutive days.

    Attributes:
        first: The first one.
        last: The last one.
    """

    first: date
    last: date

    def within(self, other: "Period") -> bool:
        """Whether all of it lies in another."""
        return other.first <= self.first and self.last <= other.last

    def __str__(self) -> str:
        for length in PRECISIONS:
            text = self.first.isoformat()[:length]
            if period(text) == self:
                return text
        return f"{self.first}..{self.last}"


def period(value: Any) -> Period | None:
    """The days that a date names: a year (2024, also as a number), a month (2024-05), a day, or the day of a time, in UTC.

    Weeks are no dates: `2024-W05` is no year, month or day.

    Returns:
        None if the value is no date.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1000 <= value <= 9999:
        value = str(value)
    if (begin := moment(value)) is None:
        return None
    try:
        first = begin.astimezone(UTC).date()
    except OverflowError:
        return None
    text = value.strip()
    if _WEEK.match(text):
        return None
    if len(text) not in PERIODS:
        return Period(first, first)
    return Period(first, first.replace(month=12, day=31) if len(text) == 4 else _month_end(first))


def no_date(field: str, value: Any) -> str:
    """What is wrong with a date that is none, and what to do."""
    return (
        f"{field} = {value!r:.60} is no date; should be as 2024, 2024-05 or 2024-05-17. Correct or empty it; or use "
        f'`where: {{{field}: {{at_least: "1000"}}}}` of the reader, which also drops documents without a date'
    )


def is_missing(value: Any) -> bool:
    """Whether a field is there and holds nothing: null, blanks, or NaN, which data frames write for it."""
    blank = isinstance(value, str) and not value.strip()
    return value is None or blank or (isinstance(value, float) and math.isnan(value))


def _month_end(first: date) -> date:
    if first.month == 12:
        return first.replace(day=31)
    return first.replace(month=first.month + 1) - timedelta(days=1)
