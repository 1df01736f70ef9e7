"""What a stage brought and what it cost, on one scale."""

import math
from pathlib import Path

import pytest

from perdure.pipeline.evaluate.report.abilities import abilities, moved, stage_lines
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from tests.pipeline.evaluate.made_up import ALL, RECIPE, make_recipe, write_run

CHATS = {"reader": {"type": "jsonl", "path": "texts/clean.jsonl", "messages_field": "messages"}}
INSTRUCTED = RECIPE["versions"]["reference"] | {"objective": {"type": "instruct"}}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """`clean` holds conversations, on which `reference` is instructed; the others are pre-trained."""
    recipe = make_recipe(
        tmp_path_factory.mktemp("run"),
        sources=RECIPE["sources"] | {"clean": CHATS},
        versions=RECIPE["versions"] | {"reference": INSTRUCTED},
    )
    return summarize(recipe, write_run(recipe, ALL))


def test_what_is_left_is_the_ratio_of_perplexities_to_the_best(report):
    found = {ability["name"]: ability for ability in report["abilities"]}
    assert {name: ability["kind"] for name, ability in found.items()} == {
        "prose": "text",
        "clean": "instructions",
        "code": "text",
    }
    assert found["prose"]["values"] == [9.0, 4.5, 4.75, 4.625, 5.5]
    assert found["prose"]["left"] == [math.exp(4.5 - loss) for loss in found["prose"]["values"]]
    assert found["clean"]["left"][2] == 1  # the instructed version


def test_shares_are_counted_from_what_guessing_gives(report):
    pairs = [None, *({"win_rate": 0.5, "accuracy": rate} for rate in (0.5, 0.9, 0.7, 0.4))]
    scores = [
        {"facts": {"new": {"accuracy": right, "chance": 0.25}}} for right in (0.25, 0.25, 0.25, 0.2, 0.25)
    ]
    measured = report | {
        "preferences": {"pairs": pairs},
        "probes": {"files": {"facts": {"kinds": ["new"]}}, "scores": scores},
    }
    *_, preferred, facts = abilities(measured, make_recipe(Path("unused")))
    assert preferred["left"] == [None, 0, 1, pytest.approx(0.5), 0]
    assert facts["left"] == [None] * 5  # nobody is better than chance


def test_every_version_is_compared_with_what_it_started_from(report):
    assert [version["stage"] for version in report["versions"]] == [
        "pre-train",
        "instruct",
        "pre-train",
        "pre-train",
    ]
    before, after = moved(report, "reference")["prose"]
    assert (before, after) == (1, math.exp(-0.25))
    lines = stage_lines(report)
    assert (
        lines[0] == "reference (instruct) cost, of the best in this run: prose 100% to 78%, code 20% to 15%."
    )
    assert not any(line.startswith("base") for line in lines)


def test_the_page_shows_every_stage(report):
    page = render_page(report)
    section = page.split("<h2>What each stage brought and cost</h2>")[1].split("</section>")[0]
    assert "<td>instruct</td>" in section and "77.9%" in section and "aria-label=" in section


def test_a_run_of_one_stage_and_one_kind_has_no_such_section(tmp_path):
    recipe = make_recipe(tmp_path)
    report = summarize(recipe, write_run(recipe, ALL))
    assert report["abilities"] is None and stage_lines(report) == []
    assert "What each stage brought" not in render_page(report)
