"""What stands in a run's directory, version by version: `perdure versions log`, `diff` and `branch`."""

import os
from pathlib import Path
from typing import Any

import yaml

from perdure.pipeline.checks.check import tree_problems
from perdure.pipeline.core.errors import Problem, RecipeError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import require_whole
from perdure.pipeline.core.manifest import differences, is_finished
from perdure.pipeline.core.records import MeasuredOn, read_record
from perdure.pipeline.evaluate.record import evaluation, measured_on, run_data_directories
from perdure.pipeline.evaluate.units import default_unit
from perdure.pipeline.plan.consumption import tokens_at
from perdure.pipeline.plan.cutoffs import cutoff_of
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.plan.history import mixture_phases, recorded_kernels, source_ledger, steps_done
from perdure.pipeline.plan.lineage import ancestors, parent_of
from perdure.pipeline.plan.merged import fitted_shares, made_of
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.recorded import as_recorded, made_schedule, recorded
from perdure.pipeline.plan.schedule import learning_rate, phase_of
from perdure.pipeline.recipe import Branch, Recipe, RecipeSource, merge, read_tree


def log(recipe: Recipe) -> dict[str, Any]:
    """The tree of versions as it stands: JSON-serialisable, what is not there yet null.

    Of a version that has begun, all of it is from its own records; the recipe speaks of what waits. `unit` is the one that
    held-out losses are shown in, `evaluation` in nats per token.
    """
    on, recipes, whole = _measured_on(recipe), recorded(recipe), as_recorded(recipe)
    versions = [_version(made, name, on, whole) for name, made in recipes.items()]
    return {"name": recipe.name, "unit": _unit(versions), "versions": versions}


def _unit(versions: list[dict[str, Any]]) -> str:
    """The unit that these versions' losses are shown in."""
    return default_unit(size for version in versions for size in (version["bytes_per_token"] or {}).values())


def _measured_on(recipe: Recipe) -> MeasuredOn | None:
    """What a run measures on; None before a version is finished: texts of a run that has only begun may be anywhere."""
    whole = as_recorded(recipe)
    if not any(is_finished(whole.paths.version(name).directory) for name in whole.versions):
        return None
    return measured_on(whole, run_data_directories(whole))


def _version(recipe: Recipe, name: str, on: MeasuredOn | None, whole: Recipe) -> dict[str, Any]:
    version, paths = recipe.versions[name], recipe.paths.version(name)
    directory = paths.directory
    step_tokens = recipe.training.global_batch_size * recipe.training.seq_length
    steps, planned, schedule = (
        steps_done(directory),
        num_steps(recipe, version),
        made_schedule(recipe, name),
    )
    before = sum(
        tokens_at(recipe.paths.version(ancestor).directory, count, step_tokens)
        for ancestor, count in ancestors(recipe, name)
    )
    tokens = tokens_at(directory, steps, step_tokens)
    measured = None
    if is_finished(directory):
        require_whole(directory)
        measured = on and evaluation(directory, on)
    texts = measured and measured["domains"]
    return {
        "id": name,
        "parent": parent_of(version),
        "start": version.start.type,
        "branch_step": version.start.step if isinstance(version.start, Branch) else None,
        "objective": version.objective and version.objective.type,
        "origin": made_of(recipe, name),
        "fitted": fitted_shares(read_record(paths)) if paths.record.exists() else None,
        "status": "finished" if is_finished(directory) else "started" if steps else "waiting",
        "steps": steps,
        "planned_steps": planned,
        "tokens": tokens,
        "lineage_tokens": before + tokens,
        "schedule": version.schedule.type,
        "phase": phase_of(schedule, steps, planned) if steps else None,
        "learning_rate": learning_rate(schedule, steps, planned) if steps else None,
        "checkpoints": list(paths.finished_checkpoints()),
        "phases": mixture_phases(recipe, name),
        "sources": source_ledger(recipe, name),
        "cutoff": cutoff_of(whole, read_record(paths)) if paths.record.exists() else None,
        "kernels": recorded_kernels(paths),
        "evaluation": texts and {domain: text["loss"] for domain, text in texts.items()},
        "bits_per_byte": texts and {domain: text["bits_per_byte"] for domain, text in texts.items()},
        "bytes_per_token": texts
        and {domain: text["bytes"] / text["tokens"] for domain, text in texts.items()},
    }


def diff(recipe: Recipe, left: str, right: str) -> dict[str, Any]:
    """What differs between two versions.

    Returns:
        `recipe`, `schedule` and `data`: lines `path: left -> right`; `results`: per domain the two held-out losses in nats
        per token and their difference, null where one is not measured; `in_bits_per_byte`: the same in that unit; `unit`, in
        which they are shown.
    """
    names = (left, right)
    on, recipes = _measured_on(recipe), recorded(recipe)
    whole = as_recorded(recipe)
    logs = [_version(recipes[name], name, on, whole) for name in names]
    fields = [
        recipes[name].versions[name].model_dump(mode="json", exclude={"schedule", "keep"}) for name in names
    ]
    schedules = [made_schedule(recipes[name], name).model_dump(mode="json") for name in names]
    inputs = [recipe.paths.version(name).inputs for name in names]
    data = [
        {"hash": read_json(path)["identity"]["data"] if path.exists() else None, "tokens": entry["sources"]}
        for path, entry in zip(inputs, logs)
    ]
    domains = measured_domains(as_recorded(recipe))
    return {
        "versions": list(names),
        "recipe": differences(fields[0], fields[1]),
        "schedule": differences(schedules[0], schedules[1]),
        "data": differences(data[0], data[1]),
        "unit": _unit(logs),
        "results": _results(domains, names, [entry["evaluation"] or {} for entry in logs]),
        "in_bits_per_byte": _results(domains, names, [entry["bits_per_byte"] or {} for entry in logs]),
    }


def _results(
    domains: list[str], names: tuple[str, str], losses: list[dict[str, float]]
) -> dict[str, dict[str, float | None]]:
    return {
        domain: {
            names[0]: before,
            names[1]: after,
            "difference": None if before is None or after is None else after - before,
        }
        for domain in domains
        for before, after in [(losses[0].get(domain), losses[1].get(domain))]
    }


def branch_recipe(
    path: Path,
    to: Path | None,
    out: Path | None,
    parent: str,
    name: str,
    step: int,
    tokens: int,
    schedule: dict,
) -> str:
    """A recipe in YAML that builds on another and adds a branch.

    Args:
        path: The recipe to build on.
        to: Where it will stand, for the relative path of `extends`; None: beside `path`.
        out: Written into it if given.
        parent: The version to branch off from.
        name: The new version.
        step: The parent's step.
        tokens: The branch's budget.
        schedule: Its schedule.

    Raises:
        RecipeError: If it would have problems, as a checkpoint that does not exist.
    """
    start = {"type": "branch", "parent": parent, "step": step}
    added: dict = {"versions": {name: {"start": start, "tokens": tokens, "schedule": schedule}}}
    if out is not None:
        added = {"out": str(out)} | added
    base = read_tree(RecipeSource(path, out=out))
    if name in (base.get("versions") or {}):
        raise RecipeError(
            str(path), [Problem("--name", name, "there is such a version; choose another name")]
        )
    tree = merge(base, added)
    if found := tree_problems(tree):
        raise RecipeError(str(to or path), found)
    beside = (to or path).parent
    text = yaml.safe_dump({"extends": os.path.relpath(path, beside)} | added, sort_keys=False, width=110)
    return f"# `{parent}` with a branch at step {step}: `{name}`.\n{text}"
