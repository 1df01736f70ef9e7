"""What every verb of the command line does; what it needs is imported when it is called."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.pipeline.cli.arguments import GPUS_PER_NODE, INSPECT
from perdure.pipeline.core.console import print_json

if TYPE_CHECKING:
    from perdure.pipeline.recipe import Recipe

logger = logging.getLogger(__name__)


def _run(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    from perdure.pipeline.run.run import run

    with _disk_errors(recipe):
        run(recipe, options.recipe)


def _check(options: argparse.Namespace) -> None:
    from perdure.pipeline.checks.check import load_checked, load_on_paper
    from perdure.pipeline.core.errors import Problem, RecipeError
    from perdure.pipeline.run.changed import changed_data
    from perdure.pipeline.run.version_inputs import edited_versions

    on_paper = bool(options.nodes or options.gpus_per_node)
    nodes, per_node = options.nodes or 1, options.gpus_per_node or GPUS_PER_NODE
    try:
        if on_paper:
            recipe, absent = load_on_paper(
                options.recipe, options.set, options.out, options.site, nodes, per_node
            )
        else:
            recipe = load_checked(options.recipe, options.set, options.out, options.site)
            other = changed_data(recipe, recipe.versions) | edited_versions(recipe, recipe.versions)
            if other:
                places = {name: str(recipe.paths.version(name).directory) for name in other}
                edits = [Problem(f"versions.{name}", places[name], what) for name, what in other.items()]
                raise RecipeError(str(options.recipe), edits)
    except RecipeError as error:
        if options.json:
            print_json({"problems": [vars(problem) for problem in error.problems]})
        if all(problem.absent for problem in error.problems):
            error.args = (f"{error}\nto look at it for other machines, which may have these: --nodes N",)
        raise
    from perdure.pipeline.checks.preview import preview

    found: dict[str, Any] = {"problems": []} | preview(recipe)
    if on_paper:
        from perdure.pipeline.checks.sizing import sizing

        found |= {
            "absent": [vars(problem) for problem in absent],
            "sizing": sizing(recipe, nodes, per_node),
        }
    if options.json:
        print_json(found)
        return
    from perdure.pipeline.cli.preview_text import print_preview

    print_preview(found)
    if on_paper:
        from perdure.pipeline.cli.sizing_text import print_sizing

        print_sizing(found["sizing"], [str(problem) for problem in absent])


def _data(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    from perdure.pipeline.run.run import make_data

    make_data(recipe)


def _inspect(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.inspect import inspect

    inspect(options)


def _train(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    name = _known_version(recipe, options.recipe, options.version)
    from perdure.pipeline.run.run import train

    with _disk_errors(recipe):
        train(recipe, options.recipe, name)


def _eval(options: argparse.Namespace) -> None:
    recipe = _load(options)
    name = _known_version(recipe, options.recipe, options.version) if options.version else None
    from perdure.pipeline.run.run import evaluate

    with _disk_errors(recipe):
        evaluate(recipe, options.recipe, name, options.ranks)


def _report_verb(options: argparse.Namespace) -> None:
    recipe = _load(options)
    from perdure.pipeline.core.files import read_json
    from perdure.pipeline.evaluate.report.report import write_report

    with _disk_errors(recipe):
        write_report(recipe, options.recipe)
    if options.json:
        print_json(read_json(recipe.paths.report))


def _compare(options: argparse.Namespace) -> None:
    from perdure.launch.status import runs_below
    from perdure.pipeline.evaluate.report.compare import compare
    from perdure.pipeline.evaluate.report.compare_text import compare_table, render_compare

    found = compare([run for place in options.places for run in runs_below(place)])
    if options.html is not None:
        from perdure.pipeline.core.files import write_atomic
        from perdure.pipeline.core.manifest import disk_errors

        with disk_errors(options.html):
            write_atomic(options.html, render_compare(found))
        logger.info(f"wrote {options.html}")
    if options.json:
        print_json(found)
    else:
        print(compare_table(found))


def _export(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.models import export

    max_shard_bytes = int(options.max_shard_gb * 1e9)
    export(options.run, options.name, options.step, options.to, max_shard_bytes)


def _import(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.models import describe

    print(describe(options.model), end="")


def _verify(options: argparse.Namespace) -> None:
    from perdure.pipeline.run.verify import verify

    verify(options.directory)


def _prepare(options: argparse.Namespace) -> None:
    recipe = _ready(options)
    name = _known_version(recipe, options.recipe, options.version)
    from perdure.pipeline.run.run import prepare

    with _disk_errors(recipe):
        prepare(recipe, options.recipe, name)


def _launch(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.jobs import launch

    launch(options)


def _sweep(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.sweeps import sweep

    sweep(options)


def _status(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.jobs import status

    status(options)


def _logs(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.jobs import logs

    logs(options)


def _log(options: argparse.Namespace) -> None:
    recipe = _load(options)
    from perdure.pipeline.cli.log import log

    if options.json:
        print_json(log(recipe))
    else:
        from perdure.pipeline.cli.log_text import print_log

        print_log(log(recipe))


def _diff(options: argparse.Namespace) -> None:
    recipe = _load(options)
    from perdure.pipeline.cli.log import diff

    names = [
        _known_version(recipe, options.recipe, name, "version") for name in (options.left, options.right)
    ]
    if options.json:
        print_json(diff(recipe, *names))
    else:
        from perdure.pipeline.cli.log_text import print_diff

        print_diff(diff(recipe, *names))


def _branch(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.log import branch_recipe

    schedule = {"type": "decay"} | ({} if options.min_lr is None else {"min_lr": options.min_lr})
    name = options.name or f"{options.parent}-{options.at}"
    text = branch_recipe(
        options.recipe, options.to, options.out, options.parent, name, options.at, options.tokens, schedule
    )
    if options.to is None:
        print(text, end="")
    else:
        _write_new(options.to, text)


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
        _write_new(options.file, content)


def _ready(options: argparse.Namespace) -> "Recipe":
    """The recipe, free of mistakes."""
    from perdure.pipeline.checks.check import load_checked

    return load_checked(options.recipe, options.set, options.out)


def _load(options: argparse.Namespace) -> "Recipe":
    """The recipe, for verbs that work on what is there."""
    from perdure.pipeline.checks.check import load_lineage

    return load_lineage(options.recipe, options.set, options.out)


def _known_version(recipe: "Recipe", source: Path, name: str, option: str = "--version") -> str:
    from perdure.pipeline.core.errors import Problem, RecipeError
    from perdure.pipeline.core.hints import near

    if name not in recipe.versions:
        remedy = f"no such version{near(name, recipe.versions)}"
        raise RecipeError(str(source), [Problem(option, name, remedy)])
    return name


def _disk_errors(recipe: "Recipe") -> Any:
    from perdure.pipeline.core.manifest import disk_errors

    return disk_errors(recipe.directory)


def _write_new(path: Path, content: str) -> None:
    from perdure.pipeline.core.errors import PerdureError

    if path.exists():
        raise PerdureError(f"{path} exists already; choose another name or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise PerdureError(f"{path}: cannot be written ({error.strerror})") from None
    logger.info(f"wrote {path}")


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "check": _check,
    "data": _data,
    INSPECT: _inspect,
    "prepare": _prepare,
    "train": _train,
    "eval": _eval,
    "report": _report_verb,
    "compare": _compare,
    "export": _export,
    "verify": _verify,
    "import": _import,
    "sweep": _sweep,
    "launch": _launch,
    "status": _status,
    "logs": _logs,
    "log": _log,
    "diff": _diff,
    "branch": _branch,
    "recipe": _recipe,
}
"""The verbs by name."""
