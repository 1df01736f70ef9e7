"""Gathers the results of a sweep's runs from their reports, for `sweep.json`."""

import statistics
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, cast

from perdure.pipeline.checks.finished import against_data
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.evaluate import metrics
from perdure.pipeline.evaluate.record import measured_on, run_data_directories
from perdure.pipeline.evaluate.report_types import InUnit, Report
from perdure.pipeline.evaluate.units import BITS, NATS, common_unit, in_unit
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.run.sweep.schema import (
    Gaps,
    Losses,
    Measured,
    Row,
    RunResult,
    SweepResult,
    VersionResult,
)
from perdure.pipeline.run.sweep.spec import Run, SweepPlan
from perdure.pipeline.run.sweep.store import version_keys, version_places

OWN = "this recipe's held-out text and probes"
IN_A_UNIT = tuple(Losses.__annotations__)
"""What is known of a version in nats per token, and again in bits per byte."""
MEASURED = tuple(Measured.__annotations__)
"""What is known of a version, in a run and in a row."""
Shown = TypeVar("Shown", Row, VersionResult)


def gather(plan: SweepPlan, failed: dict[str, str] | None = None) -> SweepResult:
    """Reads the reports of a sweep's runs.

    Args:
        plan: The sweep.
        failed: By name of runs that failed just now, why.

    Returns:
        What `sweep.json` holds. Losses are mean nats per held-out token, and again in bits per byte.
    """
    places = version_places(plan)
    failed = failed or {}
    runs: list[RunResult] = []
    reports: list[Report] = []
    for run in plan.runs:
        found, report = _run(plan, run, places[run.name], failed.get(run.name))
        runs.append(found)
        reports += [report] if report else []
    compared = compared_versions(plan.runs)
    domains = list(dict.fromkeys(domain for run in plan.runs for domain in measured_domains(run.recipe)))
    rows: list[Row] = []
    for setting, group in groupby(runs, key=lambda run: run["setting"]):
        members = list(group)
        rows += [
            row_of(setting, name, members, domains)
            for name in compared
            if any(name in run["versions"] for run in members)
        ]
    asked = plan.sweep.model_dump(mode="json", exclude={"out"})
    return {
        "name": plan.name,
        "recipe": asked["recipe"],
        "over": asked["over"],
        "variants": asked["variants"],
        "seeds": asked["seeds"],
        "domains": domains,
        "unit": common_unit(reports),
        "compared": compared,
        "arms": [] if plan.runs[0].setting else _arms(plan.runs[0]),
        "runs": runs,
        "rows": rows,
    }


def compared_versions(runs: list[Run]) -> list[str]:
    """The versions that differ between settings; all of them where only seeds are swept."""
    kinds: dict[str, set] = {}
    for run in runs:
        keys = version_keys(run.recipe.model_copy(update={"seed": 0}), run.setting)
        for name in [*kinds, *keys]:
            kinds.setdefault(name, set())
        for name, key in keys.items():
            kinds[name].add(key)
    everywhere = set.intersection(*(set(run.recipe.versions) for run in runs))
    differing = [name for name, keys in kinds.items() if len(keys) > 1 or name not in everywhere]
    return differing or list(runs[0].recipe.versions)


def _arms(run: Run) -> list[str]:
    """Versions to plot side by side: all but roots with descendants, beside which updates would look alike."""
    versions = run.recipe.versions
    parents = {name: getattr(version.start, "parent", None) for name, version in versions.items()}
    roots = {name for name, parent in parents.items() if parent is None and name in parents.values()}
    return [name for name in versions if name not in roots]


def own_report(recipe: Recipe) -> Report | None:
    """A run's report; None if there is none on the recipe's held-out text and probes.

    Raises:
        PerdureError: If it is broken, or it cannot be told what the recipe's text is.
    """
    path = recipe.paths.report
    if not path.exists():
        return None
    report = read_json(path)
    on = measured_on(recipe, run_data_directories(recipe))
    return report if report.get("measured") == on else None


def _run(
    plan: SweepPlan, run: Run, places: dict[str, Path], error: str | None
) -> tuple[RunResult, Report | None]:
    """The result of a run, and its report if that is on its recipe's text."""
    directory, report = run.recipe.directory, None
    # After an edit of the recipe, another version's directory may still be linked.
    linked = all(
        run.recipe.paths.version(name).directory.resolve() == places[name].resolve() for name in places
    )
    try:
        report = own_report(run.recipe) if linked else None
        mistakes = [] if report else list(against_data(run.recipe.model_copy(update={"out": plan.directory})))
        if error is None and mistakes:
            error = "; ".join(map(str, mistakes))
        elif error is None and report is None and linked and RunPaths(directory).report.exists():
            error = f"its report is not of {OWN}; the same command without --report measures what is missing"
    except PerdureError as problem:
        error = error or str(problem)
    measured = versions_measured(report) if report else {}
    statuses = {version["id"]: version["status"] for version in report["versions"]} if report else {}
    nothing = cast(Measured[float], dict.fromkeys(MEASURED) | {"losses": {}, "change": {}})
    versions: dict[str, VersionResult] = {
        name: {
            "directory": str(place.relative_to(plan.directory)),
            "status": "finished" if is_finished(place) else statuses.get(name, "waiting"),
            **measured.get(name, nothing),
        }
        for name, place in ((name, places[name]) for name in run.recipe.versions)
    }
    states = [version["status"] for version in versions.values()]
    whole = report is not None and set(states) == {"finished"} and not report["unmeasured"]
    found: RunResult = {
        "name": run.name,
        "setting": run.setting,
        "seed": run.seed,
        "status": "whole" if whole else "waiting" if set(states) == {"waiting"} else "started",
        "error": None if whole else error,
        "directory": str(directory.relative_to(plan.directory)),
        "versions": versions,
    }
    return found, report


def versions_measured(report: Report) -> dict[str, Measured[float]]:
    """What a report says of each version, by name."""
    found: dict[str, Measured[float]] = {}
    probes = report["probes"] or {"scores": [], "fuar": {}}
    nats, bits = in_unit(report, NATS), in_unit(report, BITS)
    for row, version in enumerate(report["versions"], start=1):
        name = version["id"]
        answers = probes["scores"][row] if probes["scores"] else None
        found[name] = {
            **_losses(report["domains"], nats, name, row),
            "in_bits_per_byte": _losses(report["domains"], bits, name, row),
            "probes": answers and _by_kind(answers),
            "fuar": {
                base: {"value": ratio["value"], "lost": ratio["lost"], "gained": ratio["gained"]}
                for base, ratio in probes["fuar"].get(name, {}).items()
            }
            or None,
            "tokens": version["tokens"],
            "lineage_tokens": version["lineage_tokens"],
            "seconds": version["seconds"],
            "tokens_per_second": version["tokens_per_second"],
            "selected_fraction": version["selected_fraction"],
        }
    return found


def _losses(domains: list[str], own: InUnit, name: str, row: int) -> Losses[float]:
    """A version's losses in one unit.

    Args:
        domains: Columns of the loss matrix.
        own: The report in that unit, see `in_unit`.
        name: The version.
        row: Its row in the loss matrix.
    """
    learned = own["forgetting"].get(name, {"mean": None, "domains": {}})
    return {
        "losses": dict(zip(domains, own["loss_matrix"][row])),
        "change": own["change"][name],
        "acc": own["acc"].get(name),
        "bwt": own["bwt"].get(name),
        "forgetting": learned["mean"],
        "stability_gap": _gap(own["stability_gap"].get(name), list(learned["domains"])),
    }


def _gap(gap: dict[str, Any] | None, learned: list[str]) -> Gaps[float] | None:
    if gap is None:
        return None
    macro = metrics.stability_gap(gap["tokens"], gap["macro"])
    return {
        "macro": {"depth": macro["depth"], "recovery_tokens": macro["recovery_tokens"]},
        "domains": {
            domain: {"depth": found["depth"], "recovery_tokens": found["recovery_tokens"]}
            for domain, found in gap["domains"].items()
            if domain in learned
        },
    }


def _by_kind(answers: dict[str, dict[str, dict]]) -> dict[str, float]:
    """Accuracy by kind of probe, over the items of all files."""
    counts: dict[str, list[int]] = {}
    for kinds in answers.values():
        for kind, entry in kinds.items():
            count = counts.setdefault(kind, [0, 0])
            count[0] += entry["correct"]
            count[1] += entry["items"]
    return {kind: correct / items for kind, (correct, items) in counts.items()}


def row_in(row: Shown, unit: str) -> Shown:
    """A row, or a run's version, with its losses in a unit."""
    return row if unit == NATS else cast(Shown, row | (row["in_bits_per_byte"] or {"losses": {}}))


def row_of(setting: dict[str, Any], name: str, runs: list[RunResult], domains: list[str]) -> Row:
    """The numbers of a version over the whole runs of one setting.

    Args:
        setting: The setting.
        name: The version.
        runs: All runs of the setting.
        domains: Domains of held-out text.
    """
    measured = [run for run in runs if run["status"] == "whole" and name in run["versions"]]
    versions = [run["versions"][name] for run in measured]
    found = {key: over_runs([version.get(key) for version in versions]) for key in MEASURED}
    bits = dict.fromkeys(IN_A_UNIT) | (found["in_bits_per_byte"] or {})
    for key in ("losses", "change"):
        found[key] = dict.fromkeys(domains) | (found[key] or {})
        bits[key] = dict.fromkeys(domains) | (bits[key] or {})
    found["in_bits_per_byte"] = bits
    head = {
        "setting": setting,
        "version": name,
        "runs": [run["name"] for run in measured],
        "planned": len(runs),
    }
    return cast(Row, head | found)


def over_runs(values: list[Any]) -> Any:
    """The `Spread` of numbers over runs, key by key in mappings; None if no run has them."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if isinstance(present[0], dict):
        keys = dict.fromkeys(key for value in present for key in value)
        return {key: over_runs([value.get(key) for value in present]) for key in keys}
    return {
        "n": len(present),
        "mean": statistics.fmean(present),
        "sd": statistics.stdev(present) if len(present) > 1 else None,
        "min": min(present),
        "max": max(present),
    }
