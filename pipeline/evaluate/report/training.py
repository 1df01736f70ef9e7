"""Training curves, phases, cost and commands of a report's versions."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import VersionRecord
from perdure.pipeline.evaluate.report.siblings import findings
from perdure.pipeline.evaluate.report_types import Cost, Report
from perdure.pipeline.evaluate.version_types import SchedulePhase, VersionSummary
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import read_share, trained_fraction, trained_share
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.recorded import made_schedule
from perdure.pipeline.plan.schedule import phase_of
from perdure.pipeline.recipe import Recipe, Replay, Version

CURVE_POINTS = 160
"""Most points of a training curve; longer ones are averaged over stretches of equal length."""

CURVE_KEYS = ("loss", "loss_selected", "loss_unselected", "lr", "selected_fraction", "mfu")


def add_derived(report: Report, recipes: dict[str, Recipe]) -> None:
    """Adds to a report what follows from its numbers and the versions' recipes.

    - `findings`: what `siblings` say, in words.
    - `cost`: hours of all versions, by kind of device.
    - `perplexity_matrix`: exp of the losses.
    - per version `command` (what first prepared it), `ranks`, `mfu` (mean), `schedule_phases` (`phase`, `after_step`,
      `after_tokens`), and in `mixture` and `phases` `after_tokens`, tokens `consumed`, `consumed_share` of all, `epochs`.
    - in `selection` and `chosen.topics` the `share` selected; in `passages` the `excess` of each token, and how many are
      `selected_count`.
    """
    report["findings"] = findings(report)
    report["cost"] = _cost(report["versions"])
    report["perplexity_matrix"] = [[_perplexity(loss) for loss in row] for row in report["loss_matrix"]]
    for version in report["versions"]:
        name = version["id"]
        recipe = recipes[name]
        directory = recipe.paths.version(name).directory
        step_tokens = recipe.training.global_batch_size * recipe.training.seq_length
        curve = report["curves"].get(name)
        layout = version["parallel"] or {}
        sizes = [layout.get(f"{kind}_parallel", 1) for kind in ("tensor", "pipeline", "data")]
        version["command"] = _command(directory)
        version["ranks"] = sizes[0] * sizes[1] * sizes[2] if layout else None
        version["mfu"] = _mean(curve["mfu"]) if curve else None
        version["schedule_phases"] = _phases(recipe, name, step_tokens)
        for phase in version["phases"] or []:
            phase["after_tokens"] = phase["after_step"] * step_tokens
        consumed = report["consumed"].get(name) or {}
        total = sum(consumed.values())
        for member in version["mixture"]:
            tokens = consumed.get(member["key"])
            own = member["available"] or _tokens(report, version, member["source"])
            member["consumed"] = tokens
            member["consumed_share"] = tokens / total if tokens is not None and total else None
            member["epochs"] = tokens / own if tokens is not None and own else None
    for counts in report["selection"].values():
        counts["share"] = counts["selected"] / counts["scored"] if counts["scored"] else None
    for found in report["chosen"].values():
        for topics in found["topics"].values():
            for own in topics.values():
                own["share"] = own["selected"] / own["scored"]
    for passage in report["passages"].values():
        pairs = zip(passage["loss"], passage["reference_loss"])
        passage["excess"] = [None if reference is None else loss - reference for loss, reference in pairs]
        passage["selected_count"] = sum(passage["selected"])


def training_curve(steps: dict[int, dict]) -> dict | None:
    """Training curves, averaged to at most `CURVE_POINTS` points; None before the first step."""
    if not steps:
        return None
    entries = [steps[step] for step in sorted(steps)]
    stretches = np.array_split(np.arange(len(entries)), min(CURVE_POINTS, len(entries)))
    bins = [[entries[i] for i in stretch] for stretch in stretches]
    sources = dict.fromkeys(source for entry in entries for source in entry["source_loss"])
    return {
        "step": [part[-1]["step"] for part in bins],
        "tokens": [part[-1]["tokens"] for part in bins],
        **{key: [_mean([entry[key] for entry in part]) for part in bins] for key in CURVE_KEYS},
        "source_loss": {
            source: [_mean([entry["source_loss"].get(source) for entry in part]) for part in bins]
            for source in sources
        },
    }


def replay_shares(
    version: Version, record: VersionRecord | None, steps: dict[int, dict]
) -> dict[str, Any] | None:
    """A version's shares of replay: planned, of tokens read and of tokens trained on, and measured.

    Args:
        version: As in the recipe.
        record: Its `version.json`, whose words count, if it is finished.
        steps: Its lines of `metrics.jsonl`.
    """
    replay, k = version.mixture.replay, trained_fraction(version)
    if record:
        told, selection = record["mixture"]["replay"], record["selection"]
        replay = told and Replay.model_validate({"share_of": "read"} | told)  # as all were before the field
        k = selection["k"] if selection else 1.0
    if replay is None:
        return None
    # A step that the guard refused trained on nothing.
    counted = [line for line in steps.values() if line.get("trained_tokens") and not line.get("skipped")]
    trained = sum(line["trained_tokens"] for line in counted)
    return {
        "share": replay.share,
        "share_of": replay.share_of,
        "read": float(read_share(replay, k)),
        "trained": float(trained_share(replay, k)),
        "measured": sum(line["replayed_tokens"] for line in counted) / trained if trained else None,
    }


def _cost(versions: list[VersionSummary]) -> Cost:
    finished = [version for version in versions if version["status"] == "finished"]
    hours: dict[bool, list[float]] = {True: [], False: []}
    for version in finished:
        if version["device_hours"] is not None:
            hours[version["device"] == "cpu"].append(version["device_hours"])
    return {
        "gpu_hours": sum(hours[False]) if hours[False] else None,
        "cpu_core_hours": sum(hours[True]) if hours[True] else None,
        "uncounted": [version["id"] for version in finished if version["device_hours"] is None],
    }


def _tokens(report: Report, version: VersionSummary, domain: str) -> int:
    """Training tokens of a domain by its plan; of the whole source where there is no plan."""
    if version["sources"]:
        return version["sources"].get(domain, {}).get("total", 0)
    data = report["data"].get(source_of(domain))
    return data["train"]["tokens"] if data else 0


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None else math.exp(min(loss, 50))


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def _command(directory: Path) -> str | None:
    path = VersionPaths(directory).inputs
    return read_json(path).get("command") if path.exists() else None


def _phases(recipe: Recipe, name: str, step_tokens: int) -> list[SchedulePhase]:
    """The phases of a version's schedule in order, each with the steps and tokens before it."""
    schedule, steps = made_schedule(recipe, name), num_steps(recipe, recipe.versions[name])
    found: list[SchedulePhase] = []
    for step in range(1, steps + 1):
        phase = phase_of(schedule, step, steps)
        if not found or phase != found[-1]["phase"]:
            found.append({"phase": phase, "after_step": step - 1, "after_tokens": (step - 1) * step_tokens})
    return found
