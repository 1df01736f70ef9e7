"""Summarises a run, finished or not, into `report.json` and `lineage.json`.

What a run has not made yet is null, never an error.
"""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from perdure.pipeline.core.files import finite, write_json
from perdure.pipeline.core.manifest import differences
from perdure.pipeline.core.records import Cutoff
from perdure.pipeline.evaluate.record import (
    run_data_directories,
    unmeasured,
)
from perdure.pipeline.evaluate.report.abilities import abilities, stage_of
from perdure.pipeline.evaluate.report.gaps import stability_gaps, start_losses
from perdure.pipeline.evaluate.report.lineage_paths import bases, path_metrics, paths
from perdure.pipeline.evaluate.report.measured import measured
from perdure.pipeline.evaluate.report.records import RunRecords, read_optional, read_records
from perdure.pipeline.evaluate.report.training import add_derived, replay_shares
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.units import (
    bits_per_nat,
    bytes_per_token,
    changes_in_bits,
    default_unit,
    measured_text,
)
from perdure.pipeline.plan.cutoffs import are_dated, cutoff_of, initial_cutoff
from perdure.pipeline.plan.forecast import expected_mixture
from perdure.pipeline.plan.history import mixture_phases, recorded_kernels, source_ledger
from perdure.pipeline.plan.identity import deciding_fields
from perdure.pipeline.plan.lineage import parent_of
from perdure.pipeline.plan.merged import fitted_shares, origin_words
from perdure.pipeline.plan.mixture import is_replayed, members, mixture_shares, trained_fraction
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.plan.recorded import as_recorded, made_schedule
from perdure.pipeline.recipe import Recipe


def build_report(recipe: Recipe) -> Report:
    """Reads a run's artefacts and writes `<out>/report.json` and `<out>/lineage.json`.

    Returns:
        What `report.json` holds; every number is finite or None.

    Raises:
        PerdureError: If an artefact is broken.
    """
    report = summarize(recipe, run_data_directories(as_recorded(recipe)))
    write_json(recipe.paths.report, report)
    write_json(recipe.paths.lineage, _lineage(recipe, report))
    return report


def summarize(recipe: Recipe, data: dict[str, Path | None]) -> Report:
    """`build_report` without writing.

    Args:
        recipe: Today's recipe. What is said of versions that have begun is from their records.
        data: By source its finished data directory, or None.
    """
    run = read_records(recipe, data)
    losses = np.array([_losses(run.domains, entry) for entry in run.rows])
    found = {
        "name": run.recipe.name,
        **_losses_and_metrics(run, losses),
        "forgotten": _forgotten(run, recipe.evaluation.exact, data),
        "measured": run.on,
        "unmeasured": unmeasured(run.recipe, run.on),
        "edited": _edited(run.recipes, recipe),
        **_training(run),
        "commands": sorted({manifest["command"] for manifest in run.manifests.values() if manifest}),
        "recipe": recipe_yaml(run.recipe_as_made()),
    }
    report = cast(Report, finite(found))  # but for what `add_derived` adds
    report["abilities"] = abilities(report, run.recipe)
    report["in_bits_per_byte"].update(changes_in_bits(report))
    add_derived(report, run.recipes)
    return report


def _losses_and_metrics(run: RunRecords, losses: np.ndarray) -> dict[str, Any]:
    """The keys of a report from `versions` to `stability_gap`.

    Args:
        run: The run's records.
        losses: float64 [rows, domains], the loss matrix, NaN where nothing was measured.
    """
    recipe, domains, sources = run.recipe, run.domains, list(run.recipe.sources)
    along = paths(sources, run.recipes)
    starts = {name: start_losses(recipe, name, run.steps[name], run.on) for name in recipe.versions}
    before = bases(along, losses, starts)
    sizes = bytes_per_token(domains, run.rows)
    in_bits = bits_per_nat(sizes)
    starts_in_bits = {name: own * in_bits for name, own in starts.items()}
    return {
        "versions": [
            _version(run, name)
            | {"left_at_step": along[name].left_at}
            | {"replay": replay_shares(recipe.versions[name], run.records[name], run.steps[name])}
            | {"change": dict(zip(domains, losses[along[name].row] - before[name]))}
            for name in recipe.versions
        ],
        "domains": domains,
        "loss_matrix": losses,
        "initial": run.initial and run.initial["domains"],
        **path_metrics(along, sources, losses, starts),
        "heldout": measured_text(domains, run.rows),
        "bytes_per_token": dict(zip(domains, sizes)),
        "unit": default_unit(sizes),
        "in_bits_per_byte": path_metrics(along, sources, losses * in_bits, starts_in_bits)
        | {"stability_gap": stability_gaps(recipe, run.steps, along, run.on, dict(zip(domains, in_bits)))},
        **measured(recipe, losses, run.rows, along, starts, run.on, run.places, _cutoffs(run)),
        "stability_gap": stability_gaps(recipe, run.steps, along, run.on, dict.fromkeys(domains, 1.0)),
    }


def _forgotten(
    run: RunRecords, exact: dict[str, str], data: dict[str, Path | None]
) -> dict[str, dict[str, Any]] | None:
    """What was measured of forgotten documents (`run/forgetting.py`), of today's data, versions and exact references alone."""
    weights = {name: record and record["weights_hash"] for name, record in run.records.items()}
    found = {}
    for source, own in (read_optional(run.recipe.paths.forgotten) or {}).items():
        place, made = data.get(source), own.get("weights", {})
        versions = {
            name: told for name, told in own["versions"].items() if made.get(name) == weights.get(name)
        }
        whole = own["exact"] == exact.get(source) and (own["exact"] is None or own["exact"] in versions)
        if whole and versions and place is not None and own.get("data") == data_hash(place):
            found[source] = own | {"versions": versions}
    return found or None


def _cutoffs(run: RunRecords) -> list[Cutoff | None]:
    """Per row of the loss matrix the model's cut-off; None if none is recorded."""
    first = initial_cutoff(run.recipe) if are_dated(run.recipe) else None
    return [first, *(cutoff_of(run.recipe, record) if record else None for record in run.records.values())]


def _training(run: RunRecords) -> dict[str, Any]:
    """The keys of a report from `consumed` to `chosen`."""
    versions, records = run.recipe.versions, run.records
    passages = {name: run.optional(name, "passage.json") for name in versions}
    chosen = {name: run.optional(name, "chosen.json") for name in versions}
    return {
        "consumed": {name: record["consumed"] for name, record in records.items() if record},
        "selection": {
            name: record["selection_counts"]
            for name, record in records.items()
            if record and run.recipes[name].versions[name].selection
        },
        "data": {
            source: manifest and {"tokenizer_hash": manifest["tokenizer_hash"], **manifest["counts"]}
            for source, manifest in run.manifests.items()
        },
        "curves": {name: curve for name, curve in run.curves.items() if curve},
        "passages": {name: passage for name, passage in passages.items() if passage is not None},
        "chosen": {name: found for name, found in chosen.items() if found is not None},
    }


def _edited(recipes: dict[str, Recipe], today: Recipe) -> dict[str, list[str]]:
    """By version, how today's recipe differs from the one it was made by; only versions with differences."""
    found = {
        name: differences(deciding_fields(made, name), deciding_fields(today, name))
        for name, made in recipes.items()
        if name in today.versions
    }
    return {name: edits for name, edits in found.items() if edits}


def recipe_yaml(recipe: Recipe) -> str:
    """The whole recipe in YAML without `out`, so that a copied run directory gives the same report."""
    tree = recipe.model_dump(mode="json", exclude={"out"})
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def _losses(domains: list[str], evaluation: dict | None) -> list[float]:
    found = evaluation["domains"] if evaluation else {}
    losses = [found.get(domain, {}).get("loss") for domain in domains]
    return [math.nan if loss is None else loss for loss in losses]


# ------------------------------------------------------------------------------------------ gathering


def _version(run: RunRecords, name: str) -> dict[str, Any]:
    recipe, record = run.recipes[name], run.records[name]
    evaluation, curve = run.evaluations[name], run.curves[name]
    version = recipe.versions[name]
    if record:
        status, steps, tokens = "finished", record["steps"], record["tokens"]
        counts = record["selection_counts"]
        fraction = counts["selected"] / counts["scored"] if counts["scored"] else None
    else:
        status, steps, tokens = (
            ("started", curve["step"][-1], curve["tokens"][-1]) if curve else ("waiting", 0, 0)
        )
        fraction = None
    # Records of earlier releases have no device and no hours.
    spent = record.get("device_seconds") if record else None
    lost = 0.0 if spent is None or record is None else record["lost_device_seconds"]
    return {
        "id": name,
        "parent": parent_of(version),
        "start": version.start.type,
        "stage": stage_of(version),
        "origin": origin_words(version, record.get("parents") if record else None),
        "fitted": fitted_shares(record),
        "status": status,
        "tokens": tokens,
        "steps": steps,
        "planned_steps": num_steps(recipe, version),
        "schedule": made_schedule(recipe, name).model_dump(mode="json") | {"type": version.schedule.type},
        "selection": version.selection and version.selection.model_dump(mode="json"),
        "selected_fraction": fraction,
        "lineage_tokens": record["lineage_tokens"] if record else None,
        "tokens_per_second": record["tokens_per_second"] if record else None,
        "seconds": record["seconds"] if record else None,
        "parallel": record["parallel"] if record else None,
        "kernels": recorded_kernels(recipe.paths.version(name)),
        "weights_hash": record["weights_hash"] if record else None,
        "device": record.get("device") if record else None,
        "device_hours": None if spent is None else (spent + lost) / 3600,
        "lost_hours": None if spent is None else lost / 3600,
        "mixture": _mixture(run, name),
        "phases": mixture_phases(recipe, name),
        "sources": source_ledger(recipe, name),
        "evaluation": evaluation and evaluation["domains"],
        "cutoff": cutoff_of(run.recipe, record) if record else None,
    }


def _mixture(run: RunRecords, name: str) -> list[dict[str, Any]]:
    recipe = run.recipes[name]
    if recipe.versions[name].is_computed:
        return []
    mixture = expected_mixture(recipe, name)
    shares = mixture_shares(mixture, k=trained_fraction(recipe.versions[name]))
    plan = run.optional(name, "plan/plan.json")
    return [
        {
            "key": key,
            "source": source,
            "replay": is_replayed(key),
            "share": float(shares.get(key, 0)),
            "order": member.order,
            "buckets": member.buckets,
            "available": plan["sources"][key]["tokens"] if plan and key in plan["sources"] else None,
            "lowest_perplexity": member.lowest_perplexity and member.lowest_perplexity.model_dump(),
        }
        for key, (source, member) in members(mixture).items()
    ]


def _lineage(recipe: Recipe, report: Report) -> dict:
    """Every version with its parent, start, hashes, tokens and evaluation, and the initial model's evaluation."""
    versions = []
    for entry in report["versions"]:
        record = read_optional(recipe.paths.version(entry["id"]).record) or {}
        versions.append(
            {
                "id": entry["id"],
                "parent": entry["parent"],
                "start": entry["start"],
                "origin": entry["origin"],
                "status": entry["status"],
                "steps": entry["steps"],
                "tokens": entry["tokens"],
                "lineage_tokens": entry["lineage_tokens"],
                "weights_hash": entry["weights_hash"],
                "tokenizer_hash": record.get("tokenizer_hash"),
                "data": record.get("data"),
                "evaluation": entry["evaluation"],
            }
        )
    return {"name": recipe.name, "initial": report["initial"], "versions": versions}
