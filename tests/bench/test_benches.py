"""Every bench in tiny form, from its measurements to its section of the page."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import run
from turns import claim, in_turns, ratio, said


def test_all_benches_are_run_and_have_a_tiny_form():
    found = {path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py")}
    assert set(run.NAMES) == found and len(run.NAMES) == len(found)
    for name in run.NAMES:
        bench = import_module(f"bench_{name}")
        assert bench.TINY.keys() == bench.FULL.keys() and bench.TINY != bench.FULL


@pytest.mark.slow
@pytest.mark.parametrize("name", run.NAMES)
def test_a_bench_works_from_its_first_line_to_its_section(name, monkeypatch):
    monkeypatch.setattr(run, "busy_cores", lambda seconds: 0.25)
    entry = run.run(name, import_module(f"bench_{name}").TINY)
    section = run.section(name, entry)
    assert section.startswith("## ") and "0.25 cores" in section
    tables = [line for line in section.splitlines() if line.startswith("|")]
    assert len(tables) > 3 and len({line.count("|") for line in tables[:3]}) == 1


def test_a_claim_needs_six_turns_that_agree():
    agreed = ratio([1.0, 1.1, 1.2, 1.0, 1.1, 1.2], [2.0] * 6)
    assert said(agreed) == "0.55 (0.50 to 0.60)"
    assert claim(agreed, "faster than", "slower than") == "faster than"
    assert claim(ratio([3.0] * 6, [2.0] * 6), "faster than", "slower than") == "slower than"
    assert ratio([1.0] * 5, [2.0] * 5)["told"] is None
    mixed = ratio([1.0] * 5 + [2.1], [2.0] * 6)
    assert claim(mixed, "faster than", "slower than") == "not told apart from"


def test_runs_take_turns():
    called = []
    found = in_turns({"a": lambda: called.append("a") or 1.0, "b": lambda: called.append("b") or 2.0}, 2)
    assert called == ["a", "b", "a", "b"] and found == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The command without its measurements: the entries by name, which a test may change, and where it writes."""
    entry = {"date": "2026-01-01", "seconds": 60.0, "busy": [0.0, 0.0], "unmet": [], "found": {}}
    entries = {name: dict(entry) for name in run.NAMES}
    monkeypatch.setattr(run, "run", lambda name, sizes: entries[name])
    monkeypatch.setattr(run, "section", lambda name, entry: f"## {name} {entry['seconds']:.0f}")
    monkeypatch.setattr(run, "DOCS", tmp_path)
    return entries, tmp_path


def test_the_command_writes_the_page_whole(measured, capsys):
    entries, docs = measured
    assert run.main([]) == 0
    page = (docs / "benchmarks.md").read_text()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [
        f"{name} 60" for name in run.NAMES
    ]
    assert "in about 9 minutes" in page and run.machine()["processor"] in page
    entries["loss"] |= {"seconds": 90.0, "unmet": ["less time"]}
    assert run.main(["loss"]) == 1
    assert "not met: less time" in capsys.readouterr().err
    again = (docs / "benchmarks.md").read_text()
    assert "## loss 90" in again and "## saving 60" in again


def test_a_bench_that_fails_is_told_and_the_others_are_kept(measured, capsys):
    entries, docs = measured
    lost = entries.pop("leaks")
    assert run.main([]) == 1
    error = capsys.readouterr().err
    assert "KeyError: 'leaks'" in error and "not written before there are leaks\n" in error
    assert not (docs / "benchmarks.md").exists()
    entries["leaks"] = lost
    assert run.main(["leaks"]) == 0 and (docs / "benchmarks.md").exists()


def test_numbers_of_another_machine_do_not_stay(measured):
    _, docs = measured
    run.main([])
    kept = json.loads((docs / "benchmarks.json").read_text())
    (docs / "benchmarks.json").write_text(json.dumps(kept | {"machine": kept["machine"] | {"cores": 999}}))
    run.main(["loss"])
    assert list(json.loads((docs / "benchmarks.json").read_text())["benches"]) == ["loss"]


def test_a_name_that_is_no_bench_is_refused(capsys):
    assert run.main(["lose"]) == 2
    assert "no bench is called lose; there are loading," in capsys.readouterr().err


@pytest.mark.skipif(not (run.DOCS / "benchmarks.json").exists(), reason="make bench has not been run")
def test_the_page_is_what_the_command_wrote():
    found = run.read_json(run.DOCS / "benchmarks.json")
    assert (run.DOCS / "benchmarks.md").read_text() == run.page(found)
