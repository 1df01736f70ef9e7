"""The curves of the reproductions, drawn from made-up reports."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "data_recipes" / "reproduce" / "plots_schedules.py"


def draw(monkeypatch, sweep: Path, to: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(sweep), "--to", str(to)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def write_reports(sweep: Path, reports: list[dict]) -> None:
    for seed, report in enumerate(reports, start=1):
        directory = sweep / "runs" / f"seed={seed}"
        directory.mkdir(parents=True)
        (directory / "report.json").write_text(json.dumps(report))


def test_versions_in_a_row(tmp_path, monkeypatch):
    names = [f"{arm}_{number}" for arm in ("rewarm", "switched") for number in range(5)] + ["scratch_4"]
    losses = [[6.0 + 0.1 * number, 7.0 - 0.1 * number] for number in range(len(names))]
    report = {
        "versions": [{"id": name} for name in names],
        "domains": ["english", "german"],
        "loss_matrix": [[8.0, 8.0], *losses],
        "stability_gap": {},
    }
    write_reports(tmp_path / "sweep", [report, report])
    draw(monkeypatch, tmp_path / "sweep", tmp_path / "plots")
    svg = (tmp_path / "plots" / "schedules-german.svg").read_text()
    words = re.findall(r">([^<>\n]+)</text>", svg)
    assert {"rewarm", "switched", "scratch", "update 1", "update 4", "version"} <= set(words)
    assert not {"first version", "constant", "annealed"} & set(words)  # what there is no number of
    assert "first version" in (tmp_path / "plots" / "schedules-english.svg").read_text()


def test_losses_while_training(tmp_path, monkeypatch):
    arms = ["start_at_max", "warmup_10", "same_text", "all_once", "random_4", "lowest_4", "lowest_4_mixed"]
    domains = ["general", "software", "handbooks"]
    gap = {
        arm: {
            "tokens": [0, 1024, 2048] if arm == "all_once" else [0, 1024],
            "loss": {domain: [6.0, 6.2, 6.1][: 3 if arm == "all_once" else 2] for domain in domains},
        }
        for arm in arms
    }
    write_reports(tmp_path / "sweep", [{"stability_gap": gap}])
    draw(monkeypatch, tmp_path / "sweep", tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        f"stability-{domain}.svg" for domain in sorted(domains)
    ]
    assert "lowest_4_mixed" in (tmp_path / "plots" / "stability-handbooks.svg").read_text()


def test_a_directory_that_is_no_sweep(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no finished run"):
        draw(monkeypatch, tmp_path, tmp_path / "plots")
