"""Tables and pictures of slices.yaml: what was kept, updated and learned over all updates, and at which price (FUAR).

python data_recipes/reproduce/slices.py runs/slices
"""

import statistics
import sys
from pathlib import Path

from perdure.data_recipes.reproduce.studies import edges, losses, reports, save, table, words
from perdure.pipeline.evaluate.figures import Line, line_chart
from perdure.pipeline.evaluate.probe_scores import fuar

ARMS = {"none": "0", "tenth": "10%", "half": "50%"}
YEARS = ("2021", "2022", "2023", "2024")
FIRST = "v2021"


def version_of(arm: str, year: str) -> str:
    """The version of an arm after a year's update; all arms share the first."""
    return FIRST if year == YEARS[0] else f"{arm}_{year}"


def scores(report: dict, version: str) -> dict[str, dict]:
    """What a version answered, by kind."""
    row = [entry["id"] for entry in report["versions"]].index(version) + 1
    (of_file,) = report["probes"]["scores"][row].values()
    return of_file


def told(report: dict, version: str, year: str, kind: str) -> float | None:
    """Accuracy on the facts that were told by a year, that year's included; None before there are any."""
    dates = {date: entry for date, entry in scores(report, version)[kind]["by_date"].items() if date <= year}
    items = sum(entry["items"] for entry in dates.values())
    return sum(entry["items"] * entry["accuracy"] for entry in dates.values()) / items if items else None


def over_all_updates(report: dict, arm: str) -> dict:
    """FUAR of the last version against the first."""
    before, after = scores(report, FIRST), scores(report, version_of(arm, YEARS[-1]))
    changed = {kind: {"change": after[kind]["accuracy"] - before[kind]["accuracy"]} for kind in after}
    return fuar({"probes": changed})


def accuracies(found: list[dict]) -> list[list[str]]:
    """A row for the first version and for each arm's last."""
    rows = []
    for name, version in [("before", FIRST), *((words_, f"{arm}_2024") for arm, words_ in ARMS.items())]:
        kinds = [scores(report, version) for report in found]
        row = [name, *(words([each[kind]["accuracy"] for each in kinds], "{:.2f}") for kind in kinds[0])]
        row.insert(3, words([each["updated"]["old"] for each in kinds], "{:.2f}"))
        if version == FIRST:
            rows.append([*row, "", "", ""])
            continue
        totals = [over_all_updates(report, version.removesuffix("_2024")) for report in found]
        rows.append(
            [*row, *(words([each[key] for each in totals], "{:.2f}") for key in ("lost", "gained", "value"))]
        )
    return rows


def main(sweep: Path) -> None:
    """Prints the tables and writes the pictures."""
    found = reports(sweep)
    print("Accuracies after the last update, and FUAR of all updates\n")
    head = ["replay", "invariant", "updated", "old answer instead", "new", "lost", "gained", "FUAR"]
    print(table(head, accuracies(found)))
    print("FUAR of every update against the version before\n")
    rows = [
        [
            name,
            *(
                words(
                    [each["probes"]["fuar"][f"{arm}_{year}"]["parent"]["value"] for each in found], "{:.2f}"
                )
                for year in YEARS[1:]
            ),
        ]
        for arm, name in ARMS.items()
    ]
    print(table(["replay", *YEARS[1:]], rows))
    print("Accuracy on updated and new facts of each year, right after its update and in the end\n")
    rows = []
    for arm, name in ARMS.items():
        for kind in ("updated", "new"):
            row = [name, kind]
            for year in YEARS[1:]:
                for version in dict.fromkeys((f"{arm}_{year}", f"{arm}_2024")):
                    dates = [scores(report, version)[kind]["by_date"][year]["accuracy"] for report in found]
                    row.append(words(dates, "{:.2f}"))
            rows.append(row)
    head = [f"{year}, {when}" for year in YEARS[1:-1] for when in ("at once", "end")]
    print(table(["replay", "kind", *head, YEARS[-1]], rows))
    print("Held-out loss by slice, nats per token\n")
    domains = found[0]["domains"]
    rows = []
    for name, version in [("before", FIRST), *((words_, f"{arm}_2024") for arm, words_ in ARMS.items())]:
        each = [losses(report, version) for report in found]
        means = [statistics.fmean(loss.values()) for loss in each]
        rows.append([name, *(words([loss[domain] for loss in each]) for domain in domains), words(means)])
    print(table(["replay", *domains, "mean"], rows))
    for kind, years in (("invariant", YEARS), ("updated", YEARS[1:]), ("new", YEARS[1:])):
        lines = []
        for number, (arm, name) in enumerate(ARMS.items()):
            curves = [[told(report, version_of(arm, year), year, kind) for report in found] for year in years]
            lines.append(Line(f"replay {name}", colour=number, **edges(curves)))
        title = f"{kind} facts told so far, answered rightly"
        svg = line_chart(
            years,
            lines,
            f"{kind} facts: share answered rightly",
            title,
            0,
            1,
            xlabel="version of the year",
            points=True,
        )
        save(sweep, f"slices-{kind}", svg)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
