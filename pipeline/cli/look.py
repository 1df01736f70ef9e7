"""Commands that look at something and change nothing: a recipe, its data, a run, the files of a run.

Imports stand inside functions where they would make `perdure --help` slow.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from perdure.launch.logs import follow, log_files
from perdure.pipeline.cli.arguments import GPUS_PER_NODE, INSPECT
from perdure.pipeline.cli.shared import existing_recipe, recipe_source, write_page
from perdure.pipeline.core.console import print_json, visible_line
from perdure.pipeline.core.errors import PerdureError, Problem, RecipeError


def _check(options: argparse.Namespace) -> None:
    from perdure.pipeline.checks.check import load_checked, load_on_paper
    from perdure.pipeline.run.changed import changed_data
    from perdure.pipeline.run.version_inputs import edited_versions

    on_paper = bool(options.nodes or options.gpus_per_node)
    nodes, per_node = options.nodes or 1, options.gpus_per_node or GPUS_PER_NODE
    try:
        if on_paper:
            recipe, absent = load_on_paper(recipe_source(options), nodes, per_node)
        else:
            recipe = load_checked(recipe_source(options))
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


def _inspect(options: argparse.Namespace) -> None:
    """Shows a recipe's data, or a directory's, as tables, a page or JSON."""
    from perdure.pipeline.cli.inspection.gather import of_directory, of_recipe

    if options.recipe.is_dir():
        if options.set or options.out:
            raise PerdureError(f"{options.recipe} is a directory: --set and --out are for recipes")
        found = of_directory(options.recipe)
    else:
        found = of_recipe(existing_recipe(options))
    if options.html is not None:
        from perdure.pipeline.cli.inspection.page import render_inspection

        write_page(options.html, render_inspection(found))
    if options.json:
        print_json(found)
    elif options.html is None:
        from perdure.pipeline.cli.inspection.text import print_inspection

        print_inspection(found)


def _status(options: argparse.Namespace) -> None:
    """Says how far the runs below a directory are."""
    from perdure.launch.status import lines, runs_below
    from perdure.launch.status import status as status_of

    runs = runs_below(options.directory)
    found = [status_of(run) for run in runs]
    if options.json:
        print_json(found[0] if runs == [options.directory] else {"runs": found})
    else:
        for run in found:
            for line in lines(run):
                print(line)


def _logs(options: argparse.Namespace) -> None:
    """Prints what a run's jobs have said, or follows it."""
    if not options.follow:
        for file in log_files(options.directory, options.version):
            print(f"==> {visible_line(file)} <==", flush=True)
            sys.stdout.write(file.read_text(encoding="utf-8", errors="replace"))
        return
    before = None
    for file, text in follow(options.directory, options.version):
        if file != before:
            print(f"==> {visible_line(file)} <==")
        before = file
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()


def _verify(options: argparse.Namespace) -> None:
    from perdure.pipeline.run.verify import verify

    verify(options.directory)


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "check": _check,
    INSPECT: _inspect,
    "status": _status,
    "logs": _logs,
    "verify": _verify,
}
"""The commands by verb."""
