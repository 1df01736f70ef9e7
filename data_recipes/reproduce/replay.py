"""Table and figure of replay.yaml: losses by share of replay, beside the published ones.

python data_recipes/reproduce/replay.py runs/replay
"""

import statistics
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
from perdure.pipeline.evaluate.report.figures import Axis, line_chart
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import NATS, UNIT_NAMES

PUBLISHED: dict[float, tuple[float, float]] = {
    0: (3.56, 1.11),
    1: (2.83, 1.12),
    5: (2.57, 1.12),
    10: (2.46, 1.13),
    25: (2.33, 1.16),
    50: (2.24, 1.22),
}
"""Old and new domain by percent of replay, nats per token: Ibrahim et al. 2024, 405 million parameters, Pile -> German."""


def shares(report: Report) -> dict[float, str]:
    """Versions by percent of replay."""
    names = [version["id"] for version in report["versions"] if version["id"].startswith("replay_")]
    return {float(name.removeprefix("replay_").replace("_", ".")): name for name in names}


def by_share(found: list[Report], domain: str) -> dict[float, list[float]]:
    """Held-out loss of every seed by percent of replay."""
    arms = shares(found[0])
    return {share: [losses(report, name)[domain] for report in found] for share, name in arms.items()}


def comparison(found: list[Report], unit: str) -> str:
    """Losses and changes against no replay, in nats per token beside the published ones."""
    published = PUBLISHED if unit == UNIT_NAMES[NATS] else {}
    head = ["Replay", "English", "change", "German", "change"]
    head += ["published: old", "published: new"] if published else []
    columns = {domain: by_share(found, domain) for domain in ("english", "german")}
    rows = []
    for share in columns["english"]:
        row = [f"{share:g}%"]
        for seeds in columns.values():
            change = statistics.fmean(seeds[share]) - statistics.fmean(seeds[0])
            row += [mean_and_sd(seeds[share]), f"{change:+.3f}" if share else ""]
        rows.append([*row, *(f"{loss:.2f}" for loss in published.get(share, ()))])
        rows[-1] += [""] * (len(head) - len(rows[-1]))
    return table(head, rows)


def chart(found: list[Report], unit: str) -> str:
    """Both losses over the share of replay."""
    lines = []
    for colour, (domain, label) in enumerate(
        {"english": "English, replayed", "german": "German, new"}.items()
    ):
        lines.append(line(label, over_seeds(list(by_share(found, domain).values())), colour))
    x, x_axis = list(shares(found[0])), Axis("replay (% of tokens)")
    return line_chart(
        x, lines, Axis(f"held-out loss ({unit})"), "Loss by share of replay", x_axis, points=True
    )


def main(sweep: Path) -> None:
    """Prints the tables and writes the figure."""
    both = in_units(reports(sweep))
    for unit, found in both:
        print(f"Held-out loss, {unit}\n")
        print(comparison(found, unit))
        before = {
            domain: mean_and_sd([losses(report, "base")[domain] for report in found])
            for domain in ("english", "german")
        }
        print(f"Before: English {before['english']}, German {before['german']}\n")
    unit, found = both[0]
    save(sweep, "replay", chart(found, unit))


if __name__ == "__main__":
    main(directory(__doc__))
