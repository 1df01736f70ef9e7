"""Mistakes in dates: one line each, before anything starts."""

import json

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.dates import one_spelling
from tests.pipeline.checks.template import found

FIELD = "sources.prose.date_field"


def problems(tmp_path, rows, *overrides):
    path = tmp_path / "news.jsonl"
    path.write_text("".join(json.dumps({"text": "Some text."} | row) + "\n" for row in rows))
    reader = f"sources.prose.reader={{type: jsonl, path: {path}}}"
    return found(reader, f"{FIELD}=date", *overrides, out=tmp_path / "out")


@pytest.mark.parametrize(
    "row",
    [
        {"date": "2024-05"},
        {"date": 2024},
        {"date": None},
        {"metadata": {"date": "2024"}},
        {"date": " "},
        {"date": float("nan")},
    ],
)
def test_dates_have_no_problem(tmp_path, row):
    assert problems(tmp_path, [{"date": "2023"}, row]) == {}


def test_a_date_that_is_none_is_one_line_with_its_place(tmp_path):
    value, told = problems(tmp_path, [{"date": "2023"}, {"date": "last May"}, {"date": "soon"}])[FIELD]
    assert value == "date"
    assert told.startswith("news.jsonl, row 2: date = 'last May' is no date; should be as 2024")
    assert "\n" not in told
    assert "2023W05' is no date" in problems(tmp_path, [{"date": "2023W05"}])[FIELD][1]
    unreadable = 'sources.prose.reader.where={date: {at_least: "1000"}}'
    assert problems(tmp_path, [{"date": "2023"}, {"date": "last May"}], unreadable) == {}


def test_a_field_that_no_document_has(tmp_path):
    assert problems(tmp_path, [{"dated": "2023"}])[FIELD] == (
        "date",
        "no document has this field; did you mean `dated`?",
    )


def test_fields_that_cannot_hold_dates(tmp_path):
    told = problems(tmp_path, [{"date": "2023"}], f"{FIELD}=text")
    assert told[FIELD][1].startswith("should be another field than that of the text")
    code = found("sources.code.date_field=date", out=tmp_path / "out")
    assert code["sources.code.date_field"][1].endswith("have no fields beside their text")


def test_a_cutoff_that_is_declared_is_a_date_and_of_a_model_that_read_something(tmp_path):
    told = found('evaluation.model_cutoff="2024-06"', out=tmp_path / "out")
    assert "random weights" in told["evaluation.model_cutoff"][1]
    told = found("evaluation.model_cutoff=May", out=tmp_path / "out")
    assert "should be a date" in told["evaluation.model_cutoff"][1]


MIXTURE = "versions.base.mixture.sources"


def places(tmp_path, *names):
    mixture = json.dumps({name: {} for name in names})
    return problems(tmp_path, [{"date": "2023"}], f"{MIXTURE}:={mixture}")


def test_ranges_of_dates_have_no_problem(tmp_path):
    assert places(tmp_path, "prose[..2023]", "prose[2024-01..2024-06]", "prose[2024-07..]") == {}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("prose[2023W05..2024]", "'2023W05' is no date; a range is written"),
        ("prose[2023-01..soon]", "'soon' is no date; a range is written `web[2023-01..2023-06]`"),
        ("prose[2024..2023]", "2024 comes after 2023; should be the other way round"),
        ("prose[2023]", "no such source; dates are written `web[2023-01..2023-06]`"),
        ("code[2023..]", "documents of `code` have no dates; set sources.code.date_field"),
    ],
)
def test_a_range_that_is_none_is_one_line(tmp_path, name, remedy):
    ((value, told),) = (places(tmp_path, name)[f"{MIXTURE}.{name}"],)
    assert value == name and told.startswith(remedy) and "\n" not in told


def test_ranges_that_share_a_day_overlap(tmp_path):
    told = places(tmp_path, "prose[2023-01..2023-06]", "prose[2023-06-30..]")
    assert told[f"{MIXTURE}.prose[2023-06-30..]"][1].startswith("overlaps `prose[2023-01..2023-06]`")


def test_the_same_dates_are_named_alike_in_a_lineage():
    def said(*names):
        versions = {
            f"v{number}": {
                "start": {"type": "update", "parent": f"v{number - 1}"} if number else {"type": "init"},
                "tokens": 1024,
                "mixture": {"sources": {name: {}}},
                "schedule": {"type": "constant", "max_lr": 0.01, "warmup": 0},
            }
            for number, name in enumerate(names)
        }
        recipe = tiny_recipe("unused", versions=versions, sources__a__date_field="date")
        return [
            (problem.path, problem.remedy)
            for name, version in recipe.versions.items()
            for problem in one_spelling(recipe, name, version)
        ]

    ((path, remedy),) = said("a[..2023]", "b", "a[..2023-12]")
    assert path == "versions.v2.mixture.sources.a[..2023-12]"
    assert remedy.startswith("has the dates of `a[..2023]`")
    assert said("a[..2023]", "a[..2023]") == said("a[..2023]", "a[2024..]", "a[..2022]") == []
    assert said("a[..2023]", "a@de[..2023-12]") == said("a", "b", "a") == []
