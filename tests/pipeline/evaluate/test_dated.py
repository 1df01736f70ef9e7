"""Dated probes: should know, unseen, undecided; never averaged."""

import pytest

from perdure.pipeline.evaluate.dated import MOST_DATES, by_date, split, timing
from perdure.pipeline.evaluate.report.ledger_lines import dated_lines
from perdure.pipeline.plan.cutoffs import NO_TEXT
from perdure.pipeline.recipe.periods import Period, period


def cutoff(text):
    days = period(text)
    return {"earliest": str(days.first), "latest": str(days.last), "unknown": []}


def answer(number, date, correct, file="facts.jsonl"):
    return {
        "file": file,
        "id": str(number),
        "kind": "new",
        "date": date,
        "answer": 0,
        "old_answer": None,
        "scores": [0.0, -1.0] if correct else [-1.0, 0.0],
    }


@pytest.mark.parametrize(
    ("date", "until", "expected"),
    [
        ("2024-01", "2024-02", "known"),
        ("2024-02", "2024-02", "known"),
        ("2024-03", "2024-02", "unseen"),
        ("2024", "2024-06", "undecided"),
        ("2023", "2024-06", "known"),
        ("2025", "2024-06", "unseen"),
        ("2024-12", "2024", "undecided"),  # the newest text may be of January
        ("2024-01-01", "2024", "known"),
        ("2024-02-10", "2024-02", "undecided"),
        ("2024-02", "2024-02-28", "undecided"),
        ("2024-02", "2024-02-29", "known"),
        ("2024-02-28", "2024-02-28", "known"),
        ("2024-02-29", "2024-02-28", "unseen"),
    ],
)
def test_a_date_against_a_cutoff(date, until, expected):
    assert timing(period(date), period(until)) == expected


def test_a_cutoff_that_is_no_single_date_decides_what_it_can():
    between = Period(period("2024-06").first, period("2024").last)
    assert [timing(period(date), between) for date in ("2024-05", "2024-06-01", "2025")] == [
        "known",
        "known",
        "unseen",
    ]
    # What is vague is no surer than what is exact.
    vague = ("2024", "2024-06", "2024-07", "2024-06-15")
    assert {timing(period(date), between) for date in vague} == {"undecided"}


ANSWERS = [
    answer(0, "2024-01", True),
    answer(1, "2024-01", True),
    answer(2, "2024-02", False),
    answer(3, "2024-03", False),
    answer(4, "2024-03", True),
    answer(5, "2024-04", False),
    answer(6, "2024", True),
    answer(7, None, True),
]


def test_probes_are_split_by_the_cutoff_and_none_is_counted_twice():
    found = split(ANSWERS, cutoff("2024-02"), seed=1)
    assert (found["cutoff"], found["refused"]) == ("2024-02", None)
    (kinds,) = found["files"].values()
    assert {kind: kinds[kind]["items"] for kind in kinds} == {
        "known": 3,
        "unseen": 3,
        "undecided": 1,
        "undated": 1,
    }
    assert [kinds[kind]["correct"] for kind in ("known", "unseen")] == [2, 1]
    assert kinds["known"]["accuracy"] == pytest.approx(2 / 3)
    assert kinds["unseen"]["accuracy"] == pytest.approx(1 / 3)
    assert kinds["unseen"]["chance"] == 0.5
    assert "accuracy" not in kinds["undecided"]
    (line,) = dated_lines("jan", found)
    assert line.startswith("jan: facts.jsonl, newest text 2024-02: should know 2 of 3")
    assert line.endswith(", undecided 1, without date 1")


def test_an_unknown_cutoff_refuses_the_split_with_its_reason():
    reason = "12 of the 300 documents of web that were read have no date"
    found = split(ANSWERS, {"earliest": None, "latest": None, "unknown": [reason]}, seed=1)
    assert (found["refused"], found["files"]) == (reason, {})


def test_without_dates_cutoff_or_answers_nothing_is_said():
    assert split(None, cutoff("2024"), 1) is None
    assert split(ANSWERS, None, 1) is None
    assert split([answer(0, None, True)], cutoff("2024"), 1) is None
    random_weights = split(ANSWERS, NO_TEXT, 1)
    assert (random_weights["refused"], random_weights["files"]) == (None, {})


def test_accuracy_by_date_joins_kinds_and_coarsens_where_there_are_many():
    kinds = {
        "new": {
            "by_date": {"2024-01": {"items": 3, "accuracy": 1.0}, "2024-02": {"items": 1, "accuracy": 0.0}}
        },
        "updated": {"by_date": {"2024-01": {"items": 1, "accuracy": 0.0}}},
    }
    assert by_date(kinds) == {"2024-01": (0.75, 4), "2024-02": (0.0, 1)}
    days = {
        f"2024-{month:02d}-{day:02d}": {"items": 1, "accuracy": 1.0}
        for month in (1, 2)
        for day in range(1, 23)
    }
    assert len(days) > MOST_DATES
    assert by_date({"new": {"by_date": days}}) == {"2024-01": (1.0, 22), "2024-02": (1.0, 22)}
    months = {f"2024-{month:02d}": {"items": 2, "accuracy": 0.5} for month in range(1, 5)}
    coarse = months | {"2023": {"items": 8, "accuracy": 1.0}}  # as many questions as all months have
    assert by_date({"new": {"by_date": coarse}}) == dict.fromkeys(months, (0.5, 2))
    coarser = months | {"2023": {"items": 9, "accuracy": 1.0}}
    assert by_date({"new": {"by_date": coarser}}) == {"2023": (1.0, 9), "2024": (0.5, 8)}
