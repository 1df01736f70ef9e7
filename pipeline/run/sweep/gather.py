"""What a sweep's runs found, read from their reports: every number of `sweep.json`."""

import statistics
from itertools import groupby
from typing import Any

from perdure.pipeline.checks.finished import against_data
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.evaluate import metrics
from perdure.pipeline.evaluate.record import measured_on, run_data_directories
from perdure.pipeline.evaluate.units import BITS, NATS, common_unit, in_unit
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.run.sweep.spec import Plan, Run
from perdure.pipeline.run.sweep.store import version_keys, version_places

COPIED = ("tokens", "lineage_tokens", "seconds", "tokens_per_second", "selected_fraction")
BY_VERSION = ("acc", "bwt")
OWN = "this recipe's held-out text and probes"
IN_A_UNIT = ("losses", "change", *BY_VERSION, "forgetting", "stability_gap")
"""What is known of a version in nats per token, and again in bits per byte."""
MEASURED = (*IN_A_UNIT, "in_bits_per_byte", "probes", "fuar", *COPIED)
"""What is known of a version, in a run and in a row."""


def gather(plan: Plan, failed: dict[str, str] | None = None) -> dict[str, Any]:
    """Reads the reports of a sweep's runs.

    Args:
        plan: The sweep.
        failed: By name of runs that failed just now, why.

    Returns:
        JSON-serialisable; losses are mean nats per held-out token, and again in bits per byte, what is not measured is null:

        - `name`, `recipe`, `over`, `variants`, `seeds`: what was asked for; `domains`; `unit`, in which losses are shown
          first, see `perdure.pipeline.evaluate.units`; `compared`: the versions that
          the swept fields decide, all of them if only seeds are swept; `arms`: those that are plotted side by side,
          empty where there is a field to plot against.
        - `runs`: per run its `name`, `setting`, `seed`, `status` (`whole`, `started`, `waiting`), `error` (what is
          wrong with it, null if nothing is known to be), `directory`, and `versions`: by name its `directory` in the sweep's, `status`, and of its report: `losses` and `change` (against
          the version that it started from) by domain; `acc`, `bwt`, `forgetting` (mean); `stability_gap`: `depth` and
          `recovery_tokens` (null if the loss never came back) of the `macro` mean and of `domains` learned before;
          `in_bits_per_byte`: all of these in that unit;
          `probes`: accuracy by kind, over all files; `fuar`: `value` (null without a gain), `lost` and `gained` against
          `parent` and `initial`; `tokens`, `lineage_tokens`, `seconds`, `tokens_per_second`, `selected_fraction`.
        - `rows`: per setting and compared version its `runs` (names of those measured) of `planned` ones, and of each
          of these numbers, over the runs that have it: `n` of them, `mean`, standard deviation `sd` (n - 1; null for
          one), `min` and `max`; null for none.
    """
    places = version_places(plan)
    failed = failed or {}
    runs, reports = [], []
    for run in plan.runs:
        found, report = _run(plan, run, places[run.name], failed.get(run.name))
        runs.append(found)
        reports += [report] if report else []
    compared = compared_versions(plan.runs)
    domains = list(dict.fromkeys(domain for run in plan.runs for domain in measured_domains(run.recipe)))
    rows = []
    for setting, group in groupby(runs, key=lambda run: run["setting"]):
        members = list(group)
        rows += [
            _row(setting, name, members, domains)
            for name in compared
            if any(name in run["versions"] for run in members)
        ]
    return {
        "name": plan.name,
        **plan.sweep.model_dump(mode="json", exclude={"out"}),
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
    """A recipe's versions without those that begin a lineage: beside a first model, updates of it look all alike."""
    versions = run.recipe.versions
    parents = {name: getattr(version.start, "parent", None) for name, version in versions.items()}
    roots = {name for name, parent in parents.items() if parent is None and name in parents.values()}
    return [name for name in versions if name not in roots]


def own_report(recipe: Recipe) -> dict[str, Any] | None:
    """A run's report; None if it is not there, or is of other held-out text or probes than the recipe's.

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
    plan: Plan, run: Run, places: dict, error: str | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What `gather` says of a run, and its report, if that is of its recipe."""
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
    found = versions_measured(report) if report else {}
    versions = {}
    for name in run.recipe.versions:
        version = found.get(name, {})
        versions[name] = {
            "directory": str(places[name].relative_to(plan.directory)),
            "status": "finished" if is_finished(places[name]) else version.get("status", "waiting"),
            **{key: version.get(key, {} if key in ("losses", "change") else None) for key in MEASURED},
        }
    states = [version["status"] for version in versions.values()]
    whole = report is not None and set(states) == {"finished"} and not report["unmeasured"]
    found = {
        "name": run.name,
        "setting": run.setting,
        "seed": run.seed,
        "status": "whole" if whole else "waiting" if set(states) == {"waiting"} else "started",
        "error": None if whole else error,
        "directory": str(directory.relative_to(plan.directory)),
        "versions": versions,
    }
    return found, report


def versions_measured(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a report says of each version, by name: its `status`, and everything in `MEASURED`."""
    found = {}
    probes = report["probes"] or {"scores": [], "fuar": {}}
    nats, bits = in_unit(report, NATS), in_unit(report, BITS)
    for row, version in enumerate(report["versions"], start=1):
        name = version["id"]
        answers = probes["scores"][row] if probes["scores"] else None
        found[name] = {
            "status": version["status"],
            **_losses(report["domains"], nats, name, row),
            "in_bits_per_byte": _losses(report["domains"], bits, name, row),
            "probes": answers and _by_kind(answers),
            "fuar": {
                base: {key: ratio[key] for key in ("value", "lost", "gained")}
                for base, ratio in probes["fuar"].get(name, {}).items()
            }
            or None,
            **{key: version[key] for key in COPIED},
        }
    return found


def _losses(domains: list[str], own: dict[str, Any], name: str, row: int) -> dict[str, Any]:
    """What is in `IN_A_UNIT` of a version, of a report in a unit."""
    learned = own["forgetting"].get(name, {"mean": None, "domains": {}})
    return {
        "losses": dict(zip(domains, own["loss_matrix"][row])),
        "change": own["change"][name],
        **{key: own[key].get(name) for key in BY_VERSION},
        "forgetting": learned["mean"],
        "stability_gap": _gap(own["stability_gap"].get(name), list(learned["domains"])),
    }


def _gap(gap: dict | None, learned: list[str]) -> dict[str, Any] | None:
    if gap is None:
        return None
    keys = ("depth", "recovery_tokens")
    macro = metrics.stability_gap(gap["tokens"], gap["macro"])
    return {
        "macro": {key: macro[key] for key in keys},
        "domains": {
            domain: {key: found[key] for key in keys}
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


def row_in(row: dict[str, Any], unit: str) -> dict[str, Any]:
    """A row, or a run's version, whose losses are in a unit."""
    return row if unit == NATS else row | (row["in_bits_per_byte"] or {"losses": {}})


def _row(setting: dict, name: str, runs: list[dict], domains: list[str]) -> dict[str, Any]:
    measured = [run for run in runs if run["status"] == "whole" and name in run["versions"]]
    versions = [run["versions"][name] for run in measured]
    found = {key: over_runs([version[key] for version in versions]) for key in MEASURED}
    bits = dict.fromkeys(IN_A_UNIT) | (found["in_bits_per_byte"] or {})
    for key in ("losses", "change"):
        found[key] = dict.fromkeys(domains) | (found[key] or {})
        bits[key] = dict.fromkeys(domains) | (bits[key] or {})
    found["in_bits_per_byte"] = bits
    return {
        "setting": setting,
        "version": name,
        "runs": [run["name"] for run in measured],
        "planned": len(runs),
        **found,
    }


def over_runs(values: list[Any]) -> Any:
    """Numbers of several runs as `n`, `mean`, `sd`, `min`, `max`, key by key in mappings; None if there are none."""
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
