"""Versions of several runs side by side."""

import copy
import json
import math

import pytest

from perdure.pipeline import cli
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.evaluate.compare import compare, compare_table, render_compare


@pytest.fixture
def runs(report, tmp_path):
    """The made-up run, and another one of only prose, which is better at it and was measured on other documents."""
    other = copy.deepcopy(report)
    other["versions"] = [other["versions"][0]]
    other["versions"][0]["evaluation"] = {
        "prose": {**other["initial"]["prose"], "loss": 4.25, "documents": 7}
    }
    other["versions"][0]["change"] = {"prose": -4.75}
    other["data"]["prose"]["tokenizer_hash"] = "beef" * 16
    for name, content in (("first", report), ("second", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    return tmp_path


def test_all_versions_of_a_run_or_one(runs, report):
    found = compare([runs / "first" / "versions" / "update", runs / "second"])
    assert [(row["run"], row["version"]) for row in found["rows"]] == [
        (str(runs / "first"), "update"),
        (str(runs / "second"), "base"),
    ]
    update, base = found["rows"]
    assert update["losses"] == {"prose": 4.625, "clean": 4.375, "code": 4.5} and base["losses"] == {
        "prose": 4.25
    }
    assert update["change"]["code"] == -1.5 and update["bwt"] == -0.125 and update["forgetting"] == 0.125
    # Their tokenizers differ, so that losses per token cannot be compared.
    assert found["measure"] == "bits_per_byte"
    assert found["best"] == {"prose": None, "clean": 4.375 / 2.77, "code": 4.5 / 2.77}
    assert compare([runs / "first"])["best"] == {"prose": 4.5, "clean": 4.0, "code": 4.375}
    assert len(compare([runs / "first"])["rows"]) == 4
    assert compare([runs / "first"])["notes"] == []


def test_languages_are_compared_in_bits_per_byte(runs):
    path = runs / "first" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unit": "bits_per_byte"}))
    found = compare([runs / "first"])
    assert found["measure"] == "bits_per_byte" and found["notes"] == []
    (path := runs / "second" / "report.json").write_text(
        json.dumps(
            {k: v for k, v in json.loads(path.read_text()).items() if k not in ("unit", "in_bits_per_byte")}
        )
    )
    assert compare([runs / "second"])["rows"][0]["in_bits_per_byte"]["acc"] is None  # of an earlier release


def test_what_cannot_be_compared_is_said(runs):
    tokenizers, documents = compare([runs / "first", runs / "second"])["notes"]
    assert tokenizers.startswith("The runs have different tokenizers") and "beefbeef" in tokenizers
    assert "these are bits per byte" in tokenizers
    assert documents == (
        f"prose was measured on different held-out text: 101 documents in {runs / 'first'}, "
        f"7 documents in {runs / 'second'}; none is called the lowest."
    )


def test_the_table_and_the_page(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    assert cli.main(["compare", "first", "second", "--html", "all.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    per_token, numbers = ["-4.562", "-0.125", "+0.125"], ["803k", "7,422", "41.5%", "2:42", "-"]
    assert lines[0].startswith("Held-out loss, bits per byte (")
    assert lines[2].split()[2:8] == ["prose", "clean", "code", "ACC", "BWT", "forgetting"]
    in_bits = [f"{nats / math.log(2) / 4:+.3f}" for nats in (0.125, 0.125, -1.5, -4.5625, -0.125, 0.125)]
    losses = [
        cell for pair in zip(["1.670", "1.579", "1.625"], in_bits) for cell in (pair[0], f"({pair[1]})")
    ]
    assert lines[6].split() == ["first", "update", *losses, *in_bits[3:], *numbers]
    assert lines[8].split()[:3] == ["second", "base", "3.249"]
    # Of `prose`, measured on different documents, none is the lowest.
    assert lines[4].split()[2:8:2] == ["1.625", "1.534", "2.166"] and lines[8].split()[2] == "3.249"
    stars = [[cell.endswith("*") for cell in line.split()[2:8:2]] for line in lines[4:9]]
    assert [sum(column) for column in zip(*stars)] == [0, 1, 1]
    assert cli.main(["compare", "first"]) == 0
    alone = capsys.readouterr().out.splitlines()
    assert alone[6].split() == [
        *["first", "update", "4.625", "(+0.125)", "4.375", "(+0.125)", "4.500", "(-1.500)"],
        *per_token,
        *numbers,
    ]
    assert sum(line.startswith("note: ") for line in lines) == 2
    page = (runs / "all.html").read_text()
    assert page == render_compare(compare([runs / "first", runs / "second"]).copy()).replace(
        str(runs) + "/", ""
    )
    assert page.count('class="best"') == 2  # of `clean` and `code`
    assert "http" not in page and page.count("<tr>") == 6
    assert "nats per token" not in page and "<br>nats per token" in render_compare(compare([runs / "first"]))
    assert cli.main(["compare", "first", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 4


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("third", "no run with a report"),
        ("first/versions/updat", "has no version updat; it has base, reference"),
    ],
)
def test_a_place_that_is_no_run_is_named(runs, place, reason):
    with pytest.raises(PerdureError, match=reason):
        compare([runs / place])


def test_an_unmeasured_version_can_be_asked_for(runs):
    report = json.loads((runs / "second" / "report.json").read_text())
    report["in_bits_per_byte"] = {}
    report["versions"][0] |= {
        "evaluation": None,
        "change": {},
        "tokens_per_second": None,
        "seconds": None,
        "mfu": None,
    }
    report["acc"] = report["bwt"] = report["forgetting"] = {}
    (runs / "second" / "report.json").write_text(json.dumps(report))
    with pytest.raises(
        PerdureError, match=r"second: no version there is finished and measured; `perdure run"
    ):
        compare([runs / "second"])
    found = compare([runs / "second" / "versions" / "base", runs / "first"])
    cells = compare_table(found).splitlines()[4].split()
    assert cells[2:5] == ["-", "-", "-"] and "1.2M" in cells
    assert found["rows"][0]["losses"] == {}
