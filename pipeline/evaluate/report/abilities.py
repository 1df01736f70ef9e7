"""What a model can do, measured alike after every version: what one stage brought, and what it cost the others.

A model is pre-trained, instructed, aligned and updated again, and each stage damages the one before (alignment tax,
cross-stage forgetting). Losses and shares of right answers have different scales; what is left of the best that any version
of the run had is one scale for all.
"""

import math
from typing import Any

from perdure.pipeline.evaluate.report.figures import Axis, Line, line_chart
from perdure.pipeline.evaluate.report_types import Ability, Report
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.withdrawn import forgotten_sources
from perdure.pipeline.recipe import Recipe, Version

COSTLY = 0.01
"""A fall of what is left by more than this is told."""


def stage_of(version: Version) -> str:
    """What a version's stage is called: `instruct` and the like by its objective, `pre-train`, or how it is computed."""
    if version.is_computed:
        return version.start.type
    return version.objective.type if version.objective else "pre-train"


def abilities(report: Report, recipe: Recipe) -> list[Ability] | None:
    """What is measured of every version, or None in a run whose versions are of one stage and whose data is of one kind.

    What a version is to forget is no ability: the report has a part of its own on that.

    Args:
        report: Its losses, probes and middles.
        recipe: The run's.
    """
    found = []
    forgotten = {source for name in recipe.versions for source in forgotten_sources(recipe, name)}
    for column, domain in enumerate(report["domains"]):
        if source_of(domain) in forgotten:
            continue
        kind = "instructions" if recipe.sources[source_of(domain)].has_conversations else "text"
        found.append(_of_losses(domain, kind, [row[column] for row in report["loss_matrix"]]))
    for source, middles in (report["fill_in_the_middle"] or {}).items():
        found.append(
            _of_losses(f"middles of {source}", "infilling", [row["loss"] if row else None for row in middles])
        )
    for source, pairs in (report["preferences"] or {}).items():
        key = "win_rate" if all(row is None or row["accuracy"] is None for row in pairs) else "accuracy"
        rates = [row[key] if row else None for row in pairs]
        found.append(_of_shares(f"{source}: preferred", "preferences", rates, 0.5))
    if probes := report["probes"]:
        for file, about in probes["files"].items():
            for kind in about["kinds"]:
                rows = [(scores or {}).get(file, {}).get(kind) for scores in probes["scores"]]
                right = [row["accuracy"] if row else None for row in rows]
                chance = next((row["chance"] for row in rows if row and row["accuracy"] is not None), 0.0)
                found.append(_of_shares(f"{file}: {kind}", "questions", right, chance))
    stages = {stage_of(version) for version in recipe.versions.values() if not version.is_computed}
    return found if len(stages) > 1 or len({ability["kind"] for ability in found}) > 1 else None


def _of_losses(name: str, kind: str, values: list[float | None]) -> Ability:
    best = min((value for value in values if value is not None), default=math.nan)
    left = [None if value is None else math.exp(best - value) for value in values]
    return {"name": name, "kind": kind, "values": values, "left": left}


def _of_shares(name: str, kind: str, values: list[float | None], chance: float) -> Ability:
    """Shares beyond what guessing gives; what is no better than that is nothing, and if all are, there is nothing to lose."""
    best = max((value for value in values if value is not None), default=chance) - chance
    left = [None if value is None or best <= 0 else max(0.0, value - chance) / best for value in values]
    return {"name": name, "kind": kind, "values": values, "left": left}


def moved(report: Report, version: str) -> dict[str, tuple[float, float]]:
    """By ability, what was left of it in the model that a version started from, and what is left in the version.

    Args:
        report: With `abilities`.
        version: Its name.
    """
    row_of: dict[str | None, int] = {
        entry["id"]: row for row, entry in enumerate(report["versions"], start=1)
    }
    entry = report["versions"][row_of[version] - 1]
    before, after = row_of.get(entry["parent"], 0), row_of[version]
    pairs = {
        ability["name"]: (ability["left"][before], ability["left"][after])
        for ability in report.get("abilities") or []
        if not entry["left_at_step"]
    }
    return {
        name: (left, right) for name, (left, right) in pairs.items() if left is not None and right is not None
    }


def stage_lines(report: Report) -> list[str]:
    """A line for each version after which less than before is left of something: of what, and how much."""
    lines = []
    for entry in report["versions"]:
        cost = {
            name: f"{name} {before:.0%} to {after:.0%}"
            for name, (before, after) in moved(report, entry["id"]).items()
            if before - after > COSTLY
        }
        if cost:
            lines.append(
                f"{entry['id']} ({entry['stage']}) cost, of the best in this run: {', '.join(cost.values())}."
            )
    return lines


def shown(report: Report, path: list[str]) -> dict[str, Any] | None:
    """What the page shows: a `chart`, `names` of the columns, and `rows`, of the initial model and the versions of a path; None
    in a run of one stage."""
    if not (found := report.get("abilities")):
        return None
    numbers = {entry["id"]: row for row, entry in enumerate(report["versions"], start=1)}
    stages = {entry["id"]: entry["stage"] for entry in report["versions"]}
    models = {"initial model": 0} | {name: numbers[name] for name in path}
    lines = [
        Line(
            ability["name"],
            [None if (left := ability["left"][row]) is None else 100 * left for row in models.values()],
            colour,
            dashed=ability["kind"] != "text",
        )
        for colour, ability in enumerate(found)
    ]
    rows = []
    for name, row in models.items():
        before = moved(report, name) if row else {}
        cells = [
            {
                "left": ability["left"][row],
                "value": ability["values"][row],
                "is_share": ability["kind"] in ("questions", "preferences"),
                "change": before[ability["name"]][0] - before[ability["name"]][1]
                if ability["name"] in before
                else None,
            }
            for ability in found
        ]
        rows.append({"version": name, "stage": stages.get(name, ""), "cells": cells})
    chart = line_chart(
        list(models),
        lines,
        Axis("left of the best in this run (%)", 0),
        "What is left of the best, version by version",
        Axis("version"),
        points=True,
    )
    return {"chart": chart, "names": [ability["name"] for ability in found], "rows": rows}
