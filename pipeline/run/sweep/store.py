"""Directories of a sweep's runs, and what runs share.

    <out>/contents, clean, topics, subset, data, tokenizer@<hash8>   made once; their names hold what they depend on
    <out>/harness/initial@<hash8>.json                     what lm-evaluation-harness says of the model that all start from
    <out>/versions/<version>@<hash8>/                      every version of every run, each made once
    <out>/runs/<run>/                                      a run's directory, as of any recipe; of the above it has links

So every command that takes a run's directory takes one of these, and whatever decides a version's result stands in its
hash. Should the hash miss something, the version's `inputs.json` refuses the run that differs.
"""

import os
from pathlib import Path

from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.data.stage import tokenizer_directory
from perdure.pipeline.plan.averages import with_steps
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.identity import not_deciding, reweight_tokens
from perdure.pipeline.plan.lineage import kept_steps, models_needed
from perdure.pipeline.plan.merged import fitted_domains
from perdure.pipeline.plan.mixture import members, order_of_sources, without_idle
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.anchors import anchor_source
from perdure.pipeline.recipe.remembered import parents_of
from perdure.pipeline.run.sweep.spec import Run, SweepPlan

SHARED = ("contents", "clean", "topics", "subset", "data")


def version_keys(recipe: Recipe, changes: dict) -> dict[str, str]:
    """Eight digits of a hash for every version, over what decides its result.

    Fields that do not decide it (the layout, intervals) are left out, so that they may be edited under a sweep, unless
    the sweep itself sets them: then a run for each value is what was asked for.

    Args:
        recipe: A run's recipe.
        changes: What the run sets, by dotted path.
    """
    free = {"parallel", "kernels", "evaluation", "data"} | {
        f"training.{field}" for field in not_deciding(recipe)
    }
    asked = {
        path: value for path, value in changes.items() if any(f"{path}.".startswith(f"{f}.") for f in free)
    }
    common = {
        "seed": recipe.seed,
        "model": recipe.model.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json", exclude=not_deciding(recipe)),
        "tokenizer": recipe.tokenizer.model_dump(mode="json"),
        "scoring": recipe.scoring.model_dump(mode="json"),
        "tasks": recipe.data.tasks,
        "held out": max(source.heldout_fraction for source in recipe.sources.values()),
        "asked": asked,
        "reweight": {
            name: tokens
            for name, version in recipe.versions.items()
            if not version.is_computed and (tokens := reweight_tokens(recipe, version))
        },
    }
    return {name: hash_of(common | _lineage(recipe, name))[:8] for name in recipe.versions}


def _lineage(recipe: Recipe, name: str) -> dict:
    """What a version's key depends on: its ancestors, the models it needs, and their sources."""
    needed = [name]
    for version in needed:
        needed += [other for other in models_needed(recipe.versions[version]) if other not in needed]
    sources = set(getattr(recipe.tokenizer, "sources", ()))
    for version in needed:
        places = members(recipe.versions[version].mixture).values()
        sources |= {source_of(domain) for domain, _ in places}
        sources |= set(map(source_of, fitted_domains(recipe, recipe.versions[version])))
        sources |= {source for source in [anchor_source(recipe.versions[version].anchor)] if source}
    versions = {
        version: without_idle(
            with_steps(recipe, recipe.versions[version]).model_dump(mode="json", exclude={"keep"})
        )
        for version in needed
    }
    fitted = {
        version: tokens
        for version in needed
        if recipe.versions[version].is_computed
        and (tokens := reweight_tokens(recipe, recipe.versions[version]))
    }
    orders = {version: order_of_sources(recipe.versions[version].mixture) for version in needed}
    computed = [version for version in needed if recipe.versions[version].is_computed]
    parents = {version: parents_of(recipe.versions[version]) for version in computed}  # in their order
    return {
        "version": name,
        "versions": versions,
        "sources": {source: recipe.sources[source].model_dump(mode="json") for source in sorted(sources)},
        **({"orders": orders} if any(orders.values()) else {}),
        **({"fitted": fitted} if fitted else {}),
        **({"parents": parents} if parents else {}),
    }


def version_places(plan: SweepPlan) -> dict[str, dict[str, Path]]:
    """The shared directory of each run's versions, by run and version; it may not exist yet."""
    return {
        run.name: {
            name: RunPaths(plan.directory).version(f"{name}@{key}").directory
            for name, key in version_keys(run.recipe, run.changes).items()
        }
        for run in plan.runs
    }


def with_kept_steps(plan: SweepPlan) -> list[Run]:
    """The runs, with versions that keep the checkpoints of all branches in any run."""
    places = version_places(plan)
    kept: dict[Path, set[int]] = {}
    for run in plan.runs:
        for name, place in places[run.name].items():
            kept.setdefault(place, set()).update(kept_steps(run.recipe, name))
    return [
        Run(
            run.name,
            run.setting,
            run.changes,
            run.seed,
            run.recipe.model_copy(
                update={
                    "versions": {
                        name: with_steps(run.recipe, version).model_copy(
                            update={"keep": tuple(sorted(kept[places[run.name][name]]))}
                        )
                        for name, version in run.recipe.versions.items()
                    }
                }
            ),
        )
        for run in plan.runs
    ]


def link(plan: SweepPlan, run: Run, places: dict[str, Path]) -> None:
    """Makes a run's directory, with links to what it shares.

    Args:
        plan: The sweep.
        run: One of its runs.
        places: Where its versions stand, see `version_places`.
    """
    out = run.recipe.directory
    targets = {out / name: plan.directory / name for name in SHARED}
    harness = RunPaths(out).harness
    if run.recipe.evaluation.harness and (harness.is_symlink() or not harness.exists()):
        targets[harness] = RunPaths(plan.directory).harness
    targets |= {run.recipe.paths.version(name).directory: place for name, place in places.items()}
    _link(out, targets, whole=False)
    # Its name depends on what `contents` says.
    tokenizer = tokenizer_directory(run.recipe).name
    _link(out, {out / tokenizer: plan.directory / tokenizer}, whole=True)


def _link(out: Path, targets: dict[Path, Path], whole: bool) -> None:
    """Links paths of a run to their targets; targets that do not appear `whole` by a rename are made."""
    for path, target in targets.items():
        if not whole:
            target.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        relative = os.path.relpath(target, path.parent)
        if path.is_symlink():
            if os.readlink(path) == relative:
                continue
            path.unlink()  # the recipe was edited: another version stands for this run now
            RunPaths(out).report.unlink(missing_ok=True)
        path.symlink_to(relative)
