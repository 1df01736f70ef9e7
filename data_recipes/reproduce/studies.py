"""What the scripts beside this one share: the reports of a sweep's runs, and tables and pictures of numbers over seeds."""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from perdure.pipeline.core.files import read_json
from perdure.pipeline.evaluate.report.figures import standalone
from perdure.pipeline.evaluate.units import WORDS, common_unit, in_unit


def reports(sweep: Path) -> list[dict]:
    """`report.json` of each of a sweep's runs, by name; see docs/evaluation.md."""
    found = sorted(sweep.glob("runs/*/report.json"))
    if not found:
        raise SystemExit(f"{sweep}: no runs with a report.json; run `perdure sweep` first")
    return [read_json(path) for path in found]


def in_units(found: list[dict]) -> list[tuple[str, list[dict]]]:
    """The reports with losses and stability gaps in each unit, under its name: first the one to compare these runs in."""
    units = sorted(WORDS, key=lambda unit: unit != common_unit(found))
    keys = ("loss_matrix", "stability_gap")
    return [
        (WORDS[unit], [report | {key: in_unit(report, unit)[key] for key in keys} for report in found])
        for unit in units
    ]


def directory(description: str | None) -> Path:
    """The sweep's directory, as typed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    parser.add_argument("sweep", type=Path, help="the directory of `perdure sweep --out`")
    return parser.parse_args().sweep


def losses(report: dict, version: str) -> dict[str, float]:
    """Held-out loss of a finished version by domain, in the report's unit; see `in_units`."""
    row = [entry["id"] for entry in report["versions"]].index(version) + 1
    return dict(zip(report["domains"], report["loss_matrix"][row], strict=True))


def words(values: Sequence[float | None], form: str = "{:.3f}") -> str:
    """Mean and, in brackets, the standard deviation (n - 1) over seeds, and how many have a value if not all do."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    notes = [form.replace("+", "").format(statistics.stdev(known))] if len(known) > 1 else []
    notes += [f"{len(known)} of {len(values)}"] if len(known) < len(values) else []
    return form.format(statistics.fmean(known)) + (f" ({'; '.join(notes)})" if notes else "")


def edges(values: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Means, lowest and highest of several numbers over seeds, as `Line` takes them."""
    return {
        "values": [statistics.fmean(seeds) for seeds in values],
        "low": [min(seeds) for seeds in values],
        "high": [max(seeds) for seeds in values],
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def save(sweep: Path, name: str, svg: str) -> None:
    """Writes a picture of `line_chart` to `<sweep>/figures/<name>.svg`."""
    path = sweep / "figures" / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(standalone(svg), encoding="utf-8")
    print(f"{path}\n")
