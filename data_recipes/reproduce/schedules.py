"""Tables and figures of schedules.yaml: losses of every version on old and new text, and the cost of each arm.

python data_recipes/reproduce/schedules.py runs/schedules
"""

from pathlib import Path

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
from perdure.pipeline.evaluate.report.figures import Axis, Line, line_chart
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.plan.schedule import path_switching_cost

ARMS = ("rewarm", "constant", "switched", "infinite", "annealed", "scratch")
PATHS = {"switched": "constant", "annealed": "infinite"}
"""Arms whose versions are branches, and the arm that they branch from."""
VERSIONS = 5
NAMES = ("first", *(f"update {number}" for number in range(1, VERSIONS)))
TEXTS = {"german": ("German, the new text", 1), "english": ("English, the old text", 0)}
"""Domains, in words, and the first version that has read any of it."""


def numbers(reports: list[Report], arm: str, domain: str, first: int = 0) -> dict[int, list[float]]:
    """Losses over seeds by version, from `first` on."""
    known = {version["id"] for version in reports[0]["versions"]}
    return {
        number: [losses(report, f"{arm}_{number}")[domain] for report in reports]
        for number in range(first, VERSIONS)
        if f"{arm}_{number}" in known
    }


def cost(report: Report, arm: str) -> int:
    """Tokens trained on for all versions of an arm, main path included up to the last branch."""
    found = {version["id"]: version for version in report["versions"]}
    if arm == "scratch":  # only the last one was trained
        return sum(number * found["rewarm_0"]["tokens"] for number in range(1, VERSIONS + 1))
    total = sum(found[f"{arm}_{number}"]["tokens"] for number in range(VERSIONS))
    if arm in PATHS:
        branch = found[f"{arm}_{VERSIONS - 1}"]  # its lineage holds the main path, as far as it was needed
        total += (branch["lineage_tokens"] or 0) - branch["tokens"]
    return total


def tables(found: list[Report], unit: str) -> list[tuple[str, str, list[Line]]]:
    """Prints the tables of losses, in the reports' unit; returns a domain, a title and curves for each picture."""
    pictures = []
    for domain, (title, first) in TEXTS.items():
        print(f"{title}, {unit}\n")
        rows, lines = [], []
        for colour, arm in enumerate(ARMS):
            seeds = numbers(found, arm, domain, first)
            rows.append(
                [f"`{arm}`", *(mean_and_sd(seeds.get(number, [None])) for number in range(first, VERSIONS))]
            )
            known = list(seeds)
            if known:
                places = [known.index(n) if n in known else None for n in range(first, VERSIONS)]
                curve = over_seeds(list(seeds.values())).at(places)
                lines.append(line(arm, curve, colour, dashed=arm in PATHS.values()))
        print(table(["arm", *NAMES[first:]], rows))
        pictures.append((domain, f"Loss on {title}, by version", lines))
    print(f"Less `rewarm`, seed by seed, after the last update, {unit}\n")
    rows = []
    for arm in ARMS[1:]:
        less = []
        for domain in TEXTS:
            own, other = (numbers(found, name, domain).get(VERSIONS - 1) for name in (arm, "rewarm"))
            less.append(
                mean_and_sd([a - b for a, b in zip(own, other, strict=True)], "{:+.3f}")
                if own and other
                else "-"
            )
        rows.append([f"`{arm}`", *less])
    print(table(["arm", *TEXTS], rows))
    return pictures


def main(sweep: Path) -> None:
    """Prints the tables and writes the figures."""
    both = in_units(reports(sweep))
    drawn = [tables(found, unit) for unit, found in both]
    unit, found = both[0]
    for domain, title, lines in drawn[0]:
        names, y_axis = NAMES[TEXTS[domain][1] :], Axis(f"held-out loss, {unit}")
        picture = line_chart(names, lines, y_axis, title, Axis("version"), points=True)
        save(sweep, f"schedules-{domain}", picture)
    print("Cost\n")
    scratch = cost(found[0], "scratch")
    rows = [[f"`{arm}`", f"{cost(found[0], arm):,}", f"{cost(found[0], arm) / scratch:.3f}"] for arm in ARMS]
    print(table(["arm", "tokens", "of from scratch"], rows))
    for alpha in (0.6, 0.15):
        print(
            f"a = {alpha}: {', '.join(f'{path_switching_cost(n, alpha):.3f} for {n} versions' for n in (4, VERSIONS))}"
        )


if __name__ == "__main__":
    main(directory(__doc__))
