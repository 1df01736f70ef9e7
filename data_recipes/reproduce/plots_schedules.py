"""Draws what a sweep does not: the versions of every arm in a row (schedules.yaml), and losses while training (stability.yaml).

    python data_recipes/reproduce/plots_schedules.py runs/schedules runs/stability --to docs/results

Lines are means over the seeds of a sweep, bands their lowest and highest values.
"""

import argparse
import statistics
from pathlib import Path

from perdure.pipeline.evaluate.figures import Line, line_chart, standalone
from perdure.pipeline.manifest import read_json, write_atomic

LOSS = "held-out loss (nats per token)"
ARMS = ("rewarm", "constant", "switched", "infinite", "annealed", "scratch")
PATHS = ("constant", "infinite")  # dashed: what the next arm's versions leave
PARTS = {"english": "English, the old text", "german": "German, the new text"}
COURSES = {
    "general": ("general text, the old domain", ("start_at_max", "warmup_10", "same_text", "all_once")),
    "software": (
        "software, the new domain",
        ("start_at_max", "all_once", "random_4", "lowest_4", "lowest_4_mixed"),
    ),
    "handbooks": (
        "handbooks, the target",
        ("start_at_max", "all_once", "random_4", "lowest_4", "lowest_4_mixed"),
    ),
}


def versions_chart(reports: list[dict], domain: str) -> str:
    """Loss of every version after each part of the text that has any of the domain, a line an arm."""
    rows = {version["id"]: row for row, version in enumerate(reports[0]["versions"], start=1)}
    column, first = reports[0]["domains"].index(domain), 1 if domain == "german" else 0
    parts = ["first version", *(f"update {number}" for number in range(1, 5))][first:]
    lines = []
    for colour, arm in enumerate(ARMS):
        names = [f"{arm}_{number}" for number in range(first, 5)]
        spreads = [
            _over_seeds([report["loss_matrix"][rows[name]][column] for report in reports])
            if name in rows
            else None
            for name in names
        ]
        if any(spreads):
            lines.append(_line(arm, spreads, colour, dashed=arm in PATHS))
    return line_chart(parts, lines, LOSS, f"Loss on {PARTS[domain]}", xlabel="version", points=True)


def course_chart(reports: list[dict], domain: str) -> str:
    """Loss while training, a line an arm."""
    title, arms = COURSES[domain]
    tokens = sorted({place for arm in arms for place in reports[0]["stability_gap"][arm]["tokens"]})
    lines = []
    for colour, arm in enumerate(arms):
        found = [
            dict(zip(gap["tokens"], gap["loss"][domain]))
            for gap in (r["stability_gap"][arm] for r in reports)
        ]
        spreads = [
            _over_seeds([course[place] for course in found]) if place in found[0] else None
            for place in tokens
        ]
        lines.append(_line(arm, spreads, colour))
    return line_chart([float(place) for place in tokens], lines, LOSS, f"Loss on {title}")


def _line(label: str, spreads: list, colour: int, dashed: bool = False) -> Line:
    low, mean, high = ([spread and spread[part] for spread in spreads] for part in range(3))
    return Line(label, mean, colour, dashed=dashed, low=low, high=high)


def _over_seeds(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.fmean(values), max(values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", type=Path, nargs="+", metavar="SWEEP")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    asked = parser.parse_args()
    asked.to.mkdir(parents=True, exist_ok=True)
    for sweep in asked.sweeps:
        reports = [read_json(path) for path in sorted(sweep.glob("runs/*/report.json"))]
        if not reports:
            raise SystemExit(f"error: {sweep}: no finished run; it should be the --out of `perdure sweep`")
        courses = reports[0]["stability_gap"]
        name, domains, chart = (
            ("stability", COURSES, course_chart) if courses else ("schedules", PARTS, versions_chart)
        )
        for domain in domains:
            write_atomic(asked.to / f"{name}-{domain}.svg", standalone(chart(reports, domain)))
