"""Results of lm-evaluation-harness in a report: scores, and changes between models."""

import math
from pathlib import Path
from typing import Any

from perdure.pipeline.core.files import read_json
from perdure.pipeline.evaluate.harness import initial_records, tasks_hash
from perdure.pipeline.evaluate.report.formats import format_change, format_origin
from perdure.pipeline.evaluate.report.lineage_paths import LineagePath
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.recipe import Recipe

INITIAL = "initial model"


def harness_scores(recipe: Recipe, paths: dict[str, LineagePath]) -> dict[str, Any]:
    """The report's keys `harness`, `harness_initial` and `harness_change`, see docs/evaluation.md.

    They are of the tasks that the recipe asks for; where the tasks are gone, of the last ones.

    Args:
        recipe: The run, see `recorded.as_recorded`.
        paths: By version, where it comes from.
    """
    harness = recipe.evaluation.harness
    if harness is None:
        return {"harness": None, "harness_initial": None, "harness_change": {}}
    asked = tasks_hash(harness) if harness.include_path.is_dir() else None
    places = {name: recipe.paths.version(name).harness for name in recipe.versions}
    starts = {name: path for name, (path, _) in initial_records(recipe).items()}
    versions, initials = _read(places, asked), _read(starts, asked)
    if not versions and not initials:
        return {"harness": None, "harness_initial": None, "harness_change": {}}
    note = None
    if not initials:
        made = "`perdure eval` makes them" if starts else "it is random"
        note = f"No scores of the initial model: {made}."
    changes = {}
    for name, path in paths.items():
        before, after = None, versions.get(name)
        if path.parent is not None:  # else its parent was left before its end
            before = versions.get(path.members[-2]) if path.parent else initials.get(name)
        if before and after and _comparable(before, after):
            changes[name] = score_changes(before["tasks"], after["tasks"])
    return {
        "harness": {name: record["tasks"] for name, record in versions.items()} or None,
        "harness_initial": {
            "tasks": next((record["tasks"] for record in initials.values()), None),
            "note": note,
        },
        "harness_change": changes,
    }


def _read(places: dict[str, Path], asked: str | None) -> dict[str, dict[str, Any]]:
    found = {name: read_json(path) for name, path in places.items() if path.exists()}
    return {name: record for name, record in found.items() if asked in (None, record["identity"]["tasks"])}


def _comparable(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two models were scored on the same tasks with the same tokenisation of special tokens."""
    return all(before["identity"][key] == after["identity"][key] for key in ("tasks", "parse_special_tokens"))


def score_changes(before: dict[str, dict], after: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """Changes of all metrics from one model to another.

    Args:
        before: Task -> metric -> value, `<metric>_stderr` where there is one.
        after: Likewise.

    Returns:
        Task -> metric -> `change` and `stderr`: the standard error of the difference of two independent means, null where one
        of theirs is missing. Both answered the same items, which it does not use (unpaired): it is too large rather than too
        small.
    """
    found: dict[str, dict[str, dict]] = {}
    for task, scores in after.items():
        old = before.get(task, {})
        for metric in _metrics(scores):
            if old.get(metric) is not None and scores[metric] is not None:
                errors = [own.get(_stderr(metric)) for own in (old, scores)]
                known = [error for error in errors if error is not None]
                stderr = math.hypot(*known) if len(known) == len(errors) else None
                found.setdefault(task, {})[metric] = {
                    "change": scores[metric] - old[metric],
                    "stderr": stderr,
                }
    return found


def _stderr(metric: str) -> str:
    """The name of a metric's standard error; a filter comes last, as in `exact_match_stderr,strict`."""
    name, comma, kind = metric.partition(",")
    return f"{name}_stderr{comma}{kind}"


def _metrics(scores: dict[str, Any]) -> list[str]:
    """Names of a task's metrics, without the standard errors."""
    errors = {_stderr(name) for name in scores}
    return [name for name in scores if name not in errors]


def harness_rows(report: Report, names: list[str]) -> list[dict[str, Any]]:
    """A row for each metric of the initial model, and then of some versions.

    Args:
        report: The report.
        names: The versions.

    Returns:
        `model`, `task`, `metric`, `value`, `stderr`, and `change`: as `score_changes`, None where there is none.
    """
    initial = (report.get("harness_initial") or {}).get("tasks") or {}
    models = [(INITIAL, initial), *((report.get("harness") or {}).items())]
    return [
        {
            "model": model,
            "task": task,
            "metric": metric,
            "value": scores[metric],
            "stderr": scores.get(_stderr(metric)),
            "change": report.get("harness_change", {}).get(model, {}).get(task, {}).get(metric),
        }
        for model, tasks in models
        if model in (INITIAL, *names)
        for task, scores in tasks.items()
        for metric in _metrics(scores)
    ]


def harness_lines(report: Report) -> list[str]:
    """A line for each model and task, with changes against what the model started from."""
    versions = {version["id"]: version for version in report["versions"]}
    lines: dict[tuple[str, str], list[str]] = {}
    for row in harness_rows(report, list(versions)):
        words = f"{row['metric']} {row['value']:.3f}" if row["value"] is not None else f"{row['metric']} -"
        if row["change"]:
            error = row["change"]["stderr"]
            unpaired = "" if error is None else f", standard error {error:.3f}, unpaired"
            origin = format_origin(versions[row["model"]])
            words += f" ({format_change(row['change']['change'])} from {origin}{unpaired})"
        lines.setdefault((row["model"], row["task"]), []).append(words)
    note = (report.get("harness_initial") or {}).get("note")
    found = [f"{model}: {task}: {', '.join(parts)}" for (model, task), parts in lines.items()]
    return [f"lm-evaluation-harness: {line}" for line in (*([note] if note else []), *found)]
