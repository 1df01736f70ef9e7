"""Tables and figures of slices.yaml: accuracy on invariant, updated and new facts over all updates, and FUAR.

python data_recipes/reproduce/slices.py runs/slices
"""

import statistics
from pathlib import Path
from typing import Any

from perdure.data_recipes.reproduce.studies import (
    directory,
    in_units,
    line,
    losses,
    mean_and_sd,
    over_seeds,
    reports,
    save,
    table,
)
from perdure.pipeline.evaluate.probe_scores import fuar
from perdure.pipeline.evaluate.report.figures import Axis, line_chart
from perdure.pipeline.evaluate.report_types import Report

ARMS = {"none": "0", "tenth": "10%", "half": "50%"}
YEARS = ("2021", "2022", "2023", "2024")
FIRST = "v2021"
ENDS = (
    {"before": FIRST}
    | {name: f"{arm}_{YEARS[-1]}" for arm, name in ARMS.items()}
    | {"all years at once": "at_once"}
)
"""Versions by label: before all updates, the last of each arm, and one trained on all years at once."""


def version_of(arm: str, year: str) -> str:
    """Name of an arm's version after a year's update; all arms share the first."""
    return FIRST if year == YEARS[0] else f"{arm}_{year}"


def scores(report: Report, version: str) -> dict[str, dict]:
    """Probe scores of a version by kind."""
    row = [entry["id"] for entry in report["versions"]].index(version) + 1
    (of_file,) = _probes(report)["scores"][row].values()
    return of_file


def _probes(report: Report) -> dict[str, Any]:
    assert report["probes"] is not None
    return report["probes"]


def told(report: Report, version: str, year: str, kind: str) -> float | None:
    """Accuracy on the facts of all years up to `year`; None before there are any."""
    dates = {date: entry for date, entry in scores(report, version)[kind]["by_date"].items() if date <= year}
    items = sum(entry["items"] for entry in dates.values())
    return sum(entry["items"] * entry["accuracy"] for entry in dates.values()) / items if items else None


def over_all_updates(report: Report, version: str) -> dict:
    """FUAR of a version against the first."""
    before, after = scores(report, FIRST), scores(report, version)
    changed = {kind: {"change": after[kind]["accuracy"] - before[kind]["accuracy"]} for kind in after}
    return fuar({"probes": changed})


def accuracies(found: list[Report]) -> list[list[str]]:
    """Rows of a table, one per entry of `ENDS`: accuracies by kind, the share of old answers, and FUAR."""
    rows = []
    for name, version in ENDS.items():
        kinds = [scores(report, version) for report in found]
        row = [mean_and_sd([each[kind]["accuracy"] for each in kinds], "{:.2f}") for kind in kinds[0]]
        row.insert(2, mean_and_sd([each["updated"]["old"] for each in kinds], "{:.2f}"))
        totals = [over_all_updates(report, version) for report in found] if version != FIRST else []
        ratio = [mean_and_sd([each[key] for each in totals], "{:.2f}") for key in ("lost", "gained", "value")]
        rows.append([name, *row, *ratio])
    return rows


def each_update(found: list[Report]) -> list[list[str]]:
    """Rows of a table, one per arm: FUAR of every update against the version before."""
    rows = []
    for arm, name in ARMS.items():
        updates = [[_probes(each)["fuar"][f"{arm}_{year}"]["parent"] for each in found] for year in YEARS[1:]]
        rows.append([name, *(mean_and_sd([each["value"] for each in seeds], "{:.2f}") for seeds in updates)])
    return rows


def by_year(found: list[Report]) -> list[list[str]]:
    """Rows of a table, one per arm and kind: accuracy on the facts of each year, after its update and at the end."""

    def accuracy(version: str, kind: str, year: str) -> str:
        return mean_and_sd(
            [scores(each, version)[kind]["by_date"][year]["accuracy"] for each in found], "{:.2f}"
        )

    rows = []
    for arm, name in ARMS.items():
        for kind in ("updated", "new"):
            row = [name, kind]
            for year in YEARS[1:]:
                versions = dict.fromkeys((version_of(arm, year), version_of(arm, YEARS[-1])))
                row += [accuracy(version, kind, year) for version in versions]
            rows.append(row)
    return rows


def by_slice(found: list[Report]) -> list[list[str]]:
    """Rows of a table, one per entry of `ENDS`: held-out losses, and their mean."""
    rows = []
    for name, version in ENDS.items():
        each = [losses(report, version) for report in found]
        means = mean_and_sd([statistics.fmean(loss.values()) for loss in each])
        rows.append([name, *(mean_and_sd([loss[domain] for loss in each]) for domain in each[0]), means])
    return rows


def picture(found: list[Report], kind: str) -> str:
    """Chart of the accuracy on all facts so far by year, a curve per arm."""
    years = [year for year in YEARS if told(found[0], version_of("none", year), year, kind) is not None]
    lines = []
    for number, (arm, name) in enumerate(ARMS.items()):
        seeds = [[told(report, version_of(arm, year), year, kind) for report in found] for year in years]
        curves = [[share for share in shares if share is not None] for shares in seeds]
        lines.append(line(f"replay {name}", over_seeds(curves), number))
    y_axis, title = Axis(f"{kind} facts: share right", 0, 1), f"{kind} facts told so far, answered rightly"
    return line_chart(years, lines, y_axis, title, Axis("version of the year"), points=True)


def main(sweep: Path) -> None:
    """Prints the tables and writes the figures."""
    found = reports(sweep)
    print("Accuracies in the end, and FUAR of all updates\n")
    head = ["replay", "invariant", "updated", "old answer instead", "new", "lost", "gained", "FUAR"]
    print(table(head, accuracies(found)))
    print("FUAR of every update against the version before\n")
    print(table(["replay", *YEARS[1:]], each_update(found)))
    print("Accuracy on the facts of each year, right after its update and in the end\n")
    head = [f"{year}, {when}" for year in YEARS[1:-1] for when in ("at once", "end")]
    print(table(["replay", "kind", *head, YEARS[-1]], by_year(found)))
    for unit, own in in_units(found):
        print(f"Held-out loss by slice, {unit}\n")
        print(table(["replay", *own[0]["domains"], "mean"], by_slice(own)))
    for kind in ("invariant", "updated", "new"):
        save(sweep, f"slices-{kind}", picture(found, kind))


if __name__ == "__main__":
    main(directory(__doc__))
