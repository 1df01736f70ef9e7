"""Versions of several runs side by side."""

import copy
import json
import math

import numpy as np
import pyarrow as pa
import pytest

from perdure.pipeline.cli import entry
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.evaluate.documents import DOCUMENTS, write_tables
from perdure.pipeline.evaluate.report.compare import compare
from perdure.pipeline.evaluate.report.compare_text import compare_table, render_compare


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
    for version in report["versions"]:
        losses = {domain: found["loss"] for domain, found in version["evaluation"].items()}
        write_table(tmp_path / "first", version["id"], {name: [loss] * 6 for name, loss in losses.items()})
    return tmp_path


def write_table(run, version: str, means: dict[str, list[float]], tokens=None, **columns) -> None:
    """A version's documents, of which a token holds 4 bytes and costs so much on the mean, as its report is of."""
    found = []
    for domain, losses in means.items():
        sizes = np.array(tokens or [100] * len(losses))
        rows = {
            **{"domain": [domain] * len(sizes), "tokens": sizes, "bytes": 4 * sizes},
            **{"topic": [None] * len(sizes), "language": [None] * len(sizes), "loss": losses * sizes},
            **{"separator_loss": 0.0 * sizes, "heldout_tokens": sizes, "hash": [None] * len(sizes)},
        }
        found.append(pa.table(rows | columns).cast(DOCUMENTS))
    place = run / "versions" / version
    place.mkdir(parents=True, exist_ok=True)
    on = json.loads((run / "report.json").read_text())["measured"]
    (place / "eval.json").write_text(json.dumps({"measured": on}))
    write_tables(place / "eval_documents.parquet", found)


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
    assert found["best"] == {"prose": None, "clean": None, "code": None}  # none is lower than another one
    joint = compare([runs / "first", runs / "second"])["best"]
    assert joint == {"prose": None, "clean": 4.0 / 2.77, "code": 4.375 / 2.77}
    assert compare([runs / "first"])["best"] == {"prose": 4.5, "clean": 4.0, "code": 4.375}
    assert len(compare([runs / "first"])["rows"]) == 4
    assert compare([runs / "first"])["notes"] == []
    # A version that is named first is what all others are compared with, once.
    named = compare([runs / "first" / "versions" / "update", runs / "first"])["rows"]
    assert [row["version"] for row in named] == ["update", "base", "reference", "control"]
    assert named[0]["against_first"] == {} and named[1]["against_first"]["code"]["difference"] == 1.5


def test_languages_are_compared_in_bits_per_byte(runs):
    path = runs / "first" / "report.json"
    sizes = {"bytes_per_token": {"prose": 4.0, "clean": 4.0, "code": 3.0}}
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes))
    found = compare([runs / "first"])
    assert found["measure"] == "bits_per_byte" and found["notes"] == []
    (path := runs / "second" / "report.json").write_text(
        json.dumps(
            {k: v for k, v in json.loads(path.read_text()).items() if k not in ("unit", "in_bits_per_byte")}
        )
    )
    assert compare([runs / "second"])["rows"][0]["in_bits_per_byte"]["acc"] is None  # of an earlier release


def test_what_cannot_be_compared_is_said(runs):
    tokenizers, documents, paired = compare([runs / "first", runs / "second"])["notes"]
    assert tokenizers.startswith("The runs have different tokenizers") and "beefbeef" in tokenizers
    assert "these are bits per byte" in tokenizers
    assert documents == (
        f"prose was measured on different held-out text: 101 documents in {runs / 'first'}, "
        f"7 documents in {runs / 'second'}; none is called the lowest."
    )
    assert paired == (
        f"prose: no interval for {runs / 'second'}/base: no losses by document beside its report; `perdure eval` keeps "
        "them apart."
    )


SIZES = [10, 20, 30, 40, 50, 60, 70]
LOSSES = {
    "base": np.array([4.0, 4.5, 5.0, 4.25, 4.75, 4.5, 4.0]),
    "update": np.array([4.5, 4.25, 5.25, 4.0, 4.5, 5.5, 4.5]),
}


def by_hand(sizes: list[int], seed: int, change: np.ndarray) -> list[float]:
    """The interval of a mean over tokens or bytes, of what every document changes by in sum."""
    random, count = np.random.default_rng([seed, len(sizes)]), len(sizes)
    drawn = random.multinomial(count - 1, np.full(count, 1 / count), 1000)
    means = [row @ change / (row @ np.array(sizes)) for row in drawn]
    return pytest.approx(list(np.quantile(means, [0.025, 0.975])), abs=1e-12)


def edited(run, **changes) -> dict:
    report = json.loads((run / "report.json").read_text()) | changes
    (run / "report.json").write_text(json.dumps(report))
    return report


def test_differences_have_paired_intervals_by_hand(runs):
    run = runs / "first"
    report = edited(run)
    edited(run, intervals=report["intervals"] | {"seed": 11, "documents": {"clean": 7, "prose": 7}})
    for version, losses in LOSSES.items():
        write_table(run, version, {"prose": losses, "clean": LOSSES["base"]}, SIZES)
    rows = compare([run / "versions" / name for name in LOSSES])["rows"]
    prose, clean = (rows[1]["against_first"][name] for name in ("prose", "clean"))
    # With the draws of the report's own intervals: its seed, and the number of the domain there.
    expected = by_hand(SIZES, 11 + 1, (LOSSES["update"] - LOSSES["base"]) * SIZES)
    assert prose["interval"] == expected and prose["interval"][0] < 0 < prose["interval"][1]
    assert (prose["documents"], prose["doubt"]) == (7, "within the noise")
    assert prose["difference"] == 0.125  # as measured
    in_bits = rows[1]["in_bits_per_byte"]["against_first"]["prose"]["interval"]
    assert in_bits == pytest.approx([bound / (4 * math.log(2)) for bound in prose["interval"]])
    # The same measurement twice differs by nothing in every draw.
    assert clean["interval"] == [0.0, 0.0] and clean["doubt"] == "within the noise"
    assert "code" not in {name for name, entry in rows[1]["against_first"].items() if entry}


def test_a_star_needs_an_interval_that_leaves_out_0_against_every_other(runs):
    run = runs / "first"
    assert compare([run])["best"]["clean"] == 4.0  # `reference`: all documents agree
    better = {"reference": [4.0] * 6, "update": [4.375] * 6, "control": [5.25] * 6}
    for version, losses in (better | {"base": [3.0, 5.5, 3.0, 5.5, 3.0, 5.5]}).items():
        write_table(run, version, {"clean": losses})
    found = compare([run])
    assert found["best"]["clean"] is None  # 4.25 of `base` is higher by chance alone
    line = next(line for line in compare_table(found).splitlines() if "4.000" in line)
    assert "4.000*" not in line and "within the noise" in compare_table(found)
    several = {"update": [4.375] * 5, "reference": [4.0] * 5}
    for version, losses in several.items():
        write_table(run, version, {"clean": losses})
    found = compare([run / "versions" / name for name in several])
    assert found["best"]["clean"] is None
    assert found["rows"][1]["against_first"]["clean"]["doubt"] == "too few documents"


def test_the_same_texts_under_another_tokenizer_are_pairs_in_bits_per_byte(runs):
    names = [f"{number:016x}" for number in range(7)]
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    for name in ("first", "second"):
        report = edited(runs / name)
        report["versions"][0]["evaluation"] = {"prose": report["initial"]["prose"]}
        data = report["measured"] | {"data": {"prose": name}}
        edited(
            runs / name,
            versions=report["versions"][:1],
            measured=data,
            intervals={"seed": 3, "documents": ["prose"]},
        )
    texts = {"hash": names, "bytes": [4 * size for size in SIZES]}
    write_table(runs / "first", "base", {"prose": LOSSES["base"]}, SIZES, **texts)
    shuffled = {key: [column[i] for i in order] for key, column in texts.items()}
    halves = [SIZES[i] // 2 for i in order]  # each token holds twice as many bytes
    write_table(runs / "second", "base", {"prose": 2 * LOSSES["update"][order]}, halves, **shuffled)
    found = compare([runs / "first", runs / "second"])
    assert found["measure"] == "bits_per_byte" and len(found["notes"]) == 1  # of the tokenizers
    row = found["rows"][1]
    change = (LOSSES["update"] - LOSSES["base"]) * SIZES / math.log(2)
    expected = by_hand([4 * size for size in SIZES], 3, change)
    assert row["in_bits_per_byte"]["against_first"]["prose"]["interval"] == expected
    assert row["against_first"]["prose"] is None  # tokens of two kinds have no difference
    for what, columns in {
        "other text": {"hash": ["f" * 16, *shuffled["hash"][1:]]},
        "pieces": {"heldout_tokens": [1000, *halves[1:]]},
        "an earlier release": {"hash": [None] * 7},
    }.items():
        write_table(runs / "second", "base", {"prose": LOSSES["update"]}, halves, **(shuffled | columns))
        found = compare([runs / "first", runs / "second"])
        assert found["rows"][1]["in_bits_per_byte"]["against_first"]["prose"] is None, what
        assert found["notes"][-1] == (
            f"prose: no interval for {runs / 'second'}/base: measured on other documents, or on other pieces of them."
        ), what
        assert found["best"]["prose"] is None


def test_a_damaged_table_is_named(runs):
    place = runs / "first" / "versions" / "update"
    on = json.loads((place / "eval.json").read_text())
    (place / "eval.json").write_text(json.dumps(on | {"tables": {"eval_documents.parquet": "0" * 64}}))
    with pytest.raises(PerdureError, match=r"eval_documents\.parquet: missing or damaged"):
        compare([runs / "first"])


def test_the_table_and_the_page(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    assert entry.main(["compare", "first", "second", "--html", "all.html"]) == 0
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
    assert entry.main(["compare", "first"]) == 0
    alone = capsys.readouterr().out.splitlines()
    assert alone[6].split() == [
        *["first", "update", "4.625", "(+0.125)", "4.375", "(+0.125)", "4.500", "(-1.500)"],
        *per_token,
        *numbers,
    ]
    head = "Less the first version with a loss on the domain, bits per byte, and its 95% interval over documents, in pairs"
    place = lines.index(head)
    assert lines[place + 2].split() == ["run", "version", "prose", "clean", "code"]
    assert lines[place + 4].split() == ["first", "base", *["first"] * 3]
    update = [f"{nats / math.log(2) / 4:+.3f}" for nats in (0.125, 0.125, -1.5)]
    cells = [f"{nats / 2.77:+.3f} ({bits} to {bits})" for nats, bits in zip((0.125, 0.125, -1.5), update)]
    assert lines[place + 6].split() == ["first", "update", *" ".join(cells).split()]
    assert lines[place + 8].split() == ["second", "base", "-", "-", "-"]
    assert sum(line.startswith("note: ") for line in lines) == 3
    page = (runs / "all.html").read_text()
    assert page == render_compare(compare([runs / "first", runs / "second"]).copy()).replace(
        str(runs) + "/", ""
    )
    assert page.count('class="best"') == 2  # of `clean` and `code`
    assert "http" not in page and page.count("<tr>") == 2 * 6
    assert page.count('<span class="muted">first</span>') == 3 and "Less the first version" in page
    assert "nats per token" not in page and "<br>nats per token" in render_compare(compare([runs / "first"]))
    assert entry.main(["compare", "first", "--json"]) == 0
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
