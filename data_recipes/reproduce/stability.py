"""Tables and figures of stability.yaml: depth and recovery of the stability gap, and final losses.

python data_recipes/reproduce/stability.py runs/stability
"""

import statistics
from pathlib import Path

from perdure.data_recipes.reproduce.studies import (
    Spread,
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

OLD, NEW, TARGET = "general", "software", "handbooks"
CONTROL = "start_at_max"
GAP = ("start_at_max", "warmup_10", "same_text", "all_once", "random_4", "lowest_4", "lowest_4_mixed")
SHORT = {
    "start_at_max": "at max",
    "warmup_10": "warmup",
    "same_text": "same text",
    "lowest_4_mixed": "lowest, mixed",
}
"""Arms as legends call them."""
PICTURES = {
    OLD: ("start_at_max", "warmup_10", "same_text", "lowest_4", "lowest_4_mixed"),
    NEW: ("start_at_max", "all_once", "random_4", "lowest_4", "lowest_4_mixed"),
    TARGET: ("start_at_max", "all_once", "random_4", "lowest_4", "lowest_4_mixed"),
}


def having(reports: list[Report], version: str) -> list[Report]:
    """The runs that have a version: arms may be left out with some seeds."""
    return [report for report in reports if any(entry["id"] == version for entry in report["versions"])]


def gap(reports: list[Report], arm: str, domain: str) -> list[str]:
    """Cells of a table, over seeds: depth of the gap, tokens at the highest loss, tokens until recovery, and final rise."""
    reports = having(reports, arm)
    found = [report["stability_gap"][arm]["domains"][domain] for report in reports]
    back = [entry["recovery_tokens"] for entry in found]
    known = [tokens for tokens in back if tokens is not None]
    recovery = "never" if not known else f"{statistics.fmean(known):,.0f}"
    recovery += f" ({len(known)} of {len(back)})" if 0 < len(known) < len(back) else ""
    ends = [
        losses(report, arm)[domain] - entry["start"] for report, entry in zip(reports, found, strict=True)
    ]
    worst = ", ".join(f"{tokens:,}" for tokens in sorted({entry["worst_tokens"] for entry in found}))
    return [mean_and_sd([entry["depth"] for entry in found]), worst, recovery, mean_and_sd(ends, "{:+.3f}")]


def training_curve(reports: list[Report], arm: str, domain: str, tokens: list[int]) -> Spread:
    """Losses while training after each of `tokens`; None after the arm's end."""
    reports = having(reports, arm)
    curves = [report["stability_gap"][arm]["loss"][domain] for report in reports]
    places = reports[0]["stability_gap"][arm]["tokens"]
    number = {place: number for number, place in enumerate(places)}
    return over_seeds(list(zip(*curves, strict=True))).at([number.get(place) for place in tokens])


def tables(found: list[Report], unit: str) -> None:
    """Prints the tables, in the reports' unit."""
    for domain in PICTURES:
        print(f"Stability gap on {domain}, {unit}\n")
        rows = [[f"`{arm}`", *gap(found, arm, domain)] for arm in GAP]
        print(table(["arm", "depth", "highest after tokens", "back after tokens", "end, less start"], rows))
    print(f"In the end, {unit}\n")
    tokens_of = {version["id"]: version["tokens"] for report in found for version in report["versions"]}
    rows = []
    for arm in ("base", "reference", *GAP):
        runs = having(found, arm)
        ends = [mean_and_sd([losses(run, arm)[domain] for run in runs]) for domain in PICTURES]
        less = [
            [losses(run, arm)[domain] - losses(run, CONTROL)[domain] for run in runs] for domain in PICTURES
        ]
        rows.append(
            [f"`{arm}`", f"{tokens_of[arm]:,}", *ends, *(mean_and_sd(values, "{:+.3f}") for values in less)]
        )
    print(
        table(["version", "tokens", *PICTURES, *(f"{domain}, less {CONTROL}" for domain in PICTURES)], rows)
    )


def main(sweep: Path) -> None:
    """Prints the tables and writes the figures."""
    both = in_units(reports(sweep))
    for unit, found in both:
        tables(found, unit)
    unit, found = both[0]
    for domain, arms in PICTURES.items():
        gaps = [report["stability_gap"][arm] for arm in arms for report in having(found, arm)]
        tokens = sorted({place for gap_ in gaps for place in gap_["tokens"]})
        lines = [
            line(SHORT.get(arm, arm), training_curve(found, arm, domain, tokens), colour)
            for colour, arm in enumerate(arms)
        ]
        title = f"Loss on {domain} while training"
        save(sweep, f"stability-{domain}", line_chart(tokens, lines, Axis(f"held-out loss, {unit}"), title))


if __name__ == "__main__":
    main(directory(__doc__))
