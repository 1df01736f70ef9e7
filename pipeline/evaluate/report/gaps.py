"""Stability gap and min-ACC: metrics over the held-out losses that were measured during training.

These measurements have no losses by document, and so no intervals.
"""

import math
import sys
from typing import Any

import numpy as np

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.records import MeasuredOn, read_inputs
from perdure.pipeline.evaluate import metrics
from perdure.pipeline.evaluate.report.lineage_paths import LineagePath
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.recipe import Recipe


def stability_gaps(
    recipe: Recipe,
    steps: dict[str, dict[int, dict]],
    paths: dict[str, LineagePath],
    on: MeasuredOn,
    factors: dict[str, float],
) -> dict[str, dict[str, Any]]:
    """By version that was measured during training, `stability_gap` of docs/evaluation.md.

    Args:
        recipe: The run, see `recorded.as_recorded`.
        steps: By version its lines of `metrics.jsonl`, by step.
        paths: By version, where it comes from.
        on: What the recipe measures on, see `evaluate/record.py`.
        factors: By domain what a loss in nats per token is multiplied by.
    """
    found = {name: _stability_gap(recipe, name, steps, path, on, factors) for name, path in paths.items()}
    return {name: gap for name, gap in found.items() if gap is not None}


def _stability_gap(
    recipe: Recipe,
    version: str,
    steps: dict[str, dict[int, dict]],
    path: LineagePath,
    on: MeasuredOn,
    factors: dict[str, float],
) -> dict[str, Any] | None:
    """A version's held-out losses during training and their metrics; None if there are none on this text."""
    points = _points(recipe, version, steps[version], on)
    if not _measured_on_the_way(points):
        return None
    names = [
        domain for domain in measured_domains(recipe) if all(domain in losses for _, _, losses in points)
    ]
    if not names:
        return None
    tokens = [place for _, place, _ in points]
    curves = {name: [losses[name] * factors[name] for _, _, losses in points] for name in names}
    whole = [curves[source] for source in recipe.sources if source in curves]
    return {
        "steps": [step for step, _, _ in points],
        "tokens": tokens,
        "loss": curves,
        "macro": np.mean(whole, axis=0),
        "domains": {name: metrics.stability_gap(tokens, curve) for name, curve in curves.items()},
        **min_acc(recipe, version, steps, path, on, factors),
    }


def _number(value: float | None) -> float:
    """NaN for None, which JSON has in its place."""
    return math.nan if value is None else value


def _points(
    recipe: Recipe, version: str, steps: dict[int, dict], on: MeasuredOn
) -> list[tuple[int, int, dict[str, float]]]:
    """Step, tokens and held-out losses of every measurement of a version, during training and at its end.

    NaN is a loss that was not finite.
    """
    points = [
        (step - 1, steps[step - 1]["tokens"] if step > 1 else 0, entry["heldout_before"])
        for step, entry in sorted(steps.items())
        if entry.get("heldout_before")
    ]
    record = recipe.paths.version(version).record
    final = read_json(record) if record.exists() else {}
    if "heldout" in final:
        points.append((final["steps"], final["tokens"], final["heldout"]))
    if not points:
        return []
    then = read_inputs(recipe.paths.version(version))["measured"]
    if then["max_tokens"] != on["max_tokens"]:
        return []
    own = (None, hash_of(then)[:8])
    if any(entry.get("heldout_on") not in own for entry in steps.values()):
        return []  # begun on other text: no curve from the version's start
    rules, rules_then = on.get("sampled", {}), then.get("sampled", {})
    same = {
        domain
        for domain, text in on["data"].items()
        if then["data"].get(domain) == text and rules_then.get(domain) == rules.get(domain)
    }
    return [
        (step, tokens, {domain: _number(losses[domain]) for domain in losses if domain in same})
        for step, tokens, losses in points
    ]


def start_losses(recipe: Recipe, version: str, steps: dict[int, dict], on: MeasuredOn) -> np.ndarray:
    """A version's losses before its first step by domain, NaN where they were not measured on this text."""
    first = next((losses for step, _, losses in _points(recipe, version, steps, on) if step == 0), {})
    return np.array([first.get(domain, math.nan) for domain in measured_domains(recipe)])


def min_acc(
    recipe: Recipe,
    version: str,
    steps: dict[str, dict[int, dict]],
    path: LineagePath,
    on: MeasuredOn,
    factors: dict[str, float],
) -> dict[str, float | list[str]]:
    """min-ACC: minus the mean loss of each domain at its worst since it was learned, over this version and its ancestors.

    Args:
        recipe: The run, see `recorded.as_recorded`.
        version: The version.
        steps: By version its lines of `metrics.jsonl`, by step.
        path: Where the version comes from.
        on: What the recipe measures on, see `evaluate/record.py`.
        factors: By domain what a loss in nats per token is multiplied by.

    Returns:
        `min_acc`, and `min_acc_unmeasured`: the versions that were not measured while they trained, of which the end alone
        counts.
    """
    along = list(zip(path.members, [*path.steps, sys.maxsize]))
    points = {member: _points(recipe, member, steps[member], on) for member, _ in along}
    worst, unmeasured = [], set[str]()
    for source, row in zip(recipe.sources, path.learned):
        seen = list[float]()
        if row is not None and row < len(path.rows) - 1:
            # Of the version that learned it, its end; of the initial model, the first one's start.
            learner = along[row - 1 : row] if row else []
            spans = [(member, left, left) for member, left in learner]
            for member, first, left in [*spans, *((member, 0, left) for member, left in along[row:])]:
                own = [point for point in points[member] if source in point[2]]
                losses = [found[source] for step, _, found in own if first <= step <= left]
                seen += [loss for loss in losses if not math.isnan(loss)]
                if first == 0 and not _measured_on_the_way(own):
                    unmeasured.add(member)
        worst.append(max(seen, default=math.nan) * factors[source])
    return {
        "min_acc": metrics.min_accuracy(worst, path.learned, len(path.rows) - 1),
        "min_acc_unmeasured": [member for member, _ in along if member in unmeasured],
    }


def _measured_on_the_way(points: list[tuple[int, int, dict[str, float]]]) -> bool:
    """Whether the version was measured before its end (`evaluation.interval`)."""
    return len(points) > 1 or any(step == 0 for step, _, _ in points)
