from datetime import UTC, datetime

import pytest

from perdure.pipeline.recipe.periods import is_missing, no_date, period
from perdure.pipeline.recipe.where import moment


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2024", "2024-01-01", "2024-12-31"),
        (2024, "2024-01-01", "2024-12-31"),
        ("2024-02", "2024-02-01", "2024-02-29"),
        ("2023-12", "2023-12-01", "2023-12-31"),
        ("2024-05-17", "2024-05-17", "2024-05-17"),
        ("2024-05-17T12:00:00", "2024-05-17", "2024-05-17"),
        ("2024-05-17T23:00:00-05:00", "2024-05-18", "2024-05-18"),  # the day in UTC
        ("9999", "9999-01-01", "9999-12-31"),
    ],
)
def test_a_date_names_the_days_that_it_is_precise_to(text, first, last):
    found = period(text)
    assert (str(found.first), str(found.last)) == (first, last)
    assert period(str(found)) == found


@pytest.mark.parametrize(
    "value", ["May", "2024-13", "2024-02-30", "24", 24, 20240517, True, None, [2024], 2024.5]
)
def test_what_is_no_date_has_no_days(value):
    assert period(value) is None


@pytest.mark.parametrize(
    "week", ["2024W05", "2024-W05", "2024-W05-3", "2024W053", "2023W05", "2024-W05-3T12:00"]
)
def test_weeks_are_no_dates_and_no_months(week):
    assert period(week) is None


def test_a_week_begins_on_its_monday():
    assert moment("2024W05") == moment("2024-W05") == datetime(2024, 1, 29, tzinfo=UTC)


def test_the_remedy_for_a_date_that_is_none_says_what_else_it_drops():
    assert "which also drops documents without a date" in no_date("date", "soon")


def test_null_blanks_and_nan_are_missing():
    assert all(map(is_missing, (None, "", "  ", float("nan"))))
    assert not any(map(is_missing, (0, "0", False, 2024, "nan")))


def test_days_that_are_no_year_month_or_day_are_spelt_as_a_range():
    assert str(period("2024-06")._replace(last=period("2024").last)) == "2024-06-01..2024-12-31"
    assert period("2024-02").within(period("2024")) and not period("2024").within(period("2024-02"))
