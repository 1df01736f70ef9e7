"""Commands that make something: a recipe, data, versions, a report, a sweep, jobs of a cluster.

Imports stand inside functions where they would make `perdure --help` slow.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.pipeline.cli.shared import (
    existing_recipe,
    known_version,
    ready_recipe,
    recipe_disk_errors,
    recipe_source,
    write_new,
)
from perdure.pipeline.core.console import print_json, visible_line
from perdure.pipeline.core.errors import Problem, RecipeError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import disk_errors

if TYPE_CHECKING:
    from perdure.pipeline.recipe.cluster import JobSize


def _recipe(options: argparse.Namespace) -> None:
    if options.action == "schema":
        from perdure.pipeline.recipe import json_schema

        content = json_schema() + "\n"
    else:
        from importlib.resources import files

        content = (files("perdure.data_recipes") / "template.yaml").read_text(encoding="utf-8")
    if options.file is None:
        print(content, end="")
    else:
        write_new(options.file, content)


def _run(options: argparse.Namespace) -> None:
    recipe = ready_recipe(options)
    from perdure.pipeline.run.run import run

    with recipe_disk_errors(recipe):
        run(recipe, options.recipe)


def _data(options: argparse.Namespace) -> None:
    recipe = ready_recipe(options)
    from perdure.pipeline.run.run import make_data

    make_data(recipe)


def _prepare(options: argparse.Namespace) -> None:
    recipe = ready_recipe(options)
    name = known_version(recipe, options.recipe, options.version)
    from perdure.pipeline.run.run import prepare

    with recipe_disk_errors(recipe):
        prepare(recipe, options.recipe, name)


def _train(options: argparse.Namespace) -> None:
    recipe = ready_recipe(options)
    name = known_version(recipe, options.recipe, options.version)
    from perdure.pipeline.run.run import train

    with recipe_disk_errors(recipe):
        train(recipe, options.recipe, name)


def _eval(options: argparse.Namespace) -> None:
    recipe = existing_recipe(options)
    name = known_version(recipe, options.recipe, options.version) if options.version else None
    from perdure.pipeline.run.run import evaluate

    with recipe_disk_errors(recipe):
        evaluate(recipe, options.recipe, name, options.ranks)


def _report(options: argparse.Namespace) -> None:
    recipe = existing_recipe(options)
    from perdure.pipeline.evaluate.report.report import write_report

    with recipe_disk_errors(recipe):
        write_report(recipe, options.recipe)
    if options.json:
        print_json(read_json(recipe.paths.report))


def _sweep(options: argparse.Namespace) -> None:
    from perdure.pipeline.run.sweep.spec import load_sweep

    size = _job_size(options) if options.to else None
    for name, default in (("nodes", 1), ("gpus_per_node", 0), ("ranks_per_node", None), ("after", None)):
        if size is None and (value := getattr(options, name)) != default:
            problem = Problem(
                f"--{name.replace('_', '-')}", value, "has no use here; it goes with --to slurm"
            )
            raise RecipeError(str(options.recipe), [problem])
    plan = load_sweep(
        recipe_source(options),
        options.over,
        options.seeds,
        size,
        checked=not options.report,
    )
    with disk_errors(plan.directory):
        if options.print:
            from perdure.pipeline.run.sweep.table import plan_text

            print(plan_text(plan))
        elif options.report:
            from perdure.pipeline.run.sweep.results import write_results

            write_results(plan)
        elif size:
            from perdure.launch.sweep import submit_sweep

            submit_sweep(plan, size, Path.cwd(), options.after)
        else:
            from perdure.pipeline.run.sweep.work import run_sweep

            run_sweep(plan)


def _launch(options: argparse.Namespace) -> None:
    from perdure.launch.launch import fitted, misfits, texts
    from perdure.launch.launch import launch as submit

    size = _job_size(options)
    recipe = fitted(recipe_source(options), size)
    if found := misfits(recipe, options.to, size, options.after):
        raise RecipeError(str(options.recipe), found)
    if options.print:
        for file, text in texts(recipe, options.to, size, Path.cwd(), values=True):
            print(f"# ==> {visible_line(file)}\n{text}")
    else:
        submit(recipe, options.to, size, Path.cwd(), options.after)


def _job_size(options: argparse.Namespace) -> "JobSize":
    from perdure.pipeline.recipe.cluster import JobSize

    ranks = options.ranks_per_node or options.gpus_per_node or 1
    return JobSize(options.nodes, options.gpus_per_node, ranks)


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "recipe": _recipe,
    "run": _run,
    "data": _data,
    "prepare": _prepare,
    "train": _train,
    "eval": _eval,
    "report": _report,
    "sweep": _sweep,
    "launch": _launch,
}
"""The commands by verb."""
