import pytest

from perdure.pipeline.recipe.periods import period


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


def test_days_that_are_no_year_month_or_day_are_spelt_as_a_range():
    assert str(period("2024-06")._replace(last=period("2024").last)) == "2024-06-01..2024-12-31"
    assert period("2024-02").within(period("2024")) and not period("2024").within(period("2024-02"))
