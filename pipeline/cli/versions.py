"""Commands on versions: `perdure versions log | diff | branch | compare`.

Each is a command of its own as well, as before there was `versions`.
"""

import argparse
from collections.abc import Callable

from perdure.pipeline.cli.shared import existing_recipe, known_version, write_new, write_page
from perdure.pipeline.core.console import print_json


def _log(options: argparse.Namespace) -> None:
    recipe = existing_recipe(options)
    if options.contains is not None:
        from perdure.pipeline.cli.contains import contains, print_contains

        found = contains(recipe, options.contains)
        if options.json:
            print_json(found)
        else:
            print_contains(found)
        return
    from perdure.pipeline.cli.log import log

    if options.json:
        print_json(log(recipe))
    else:
        from perdure.pipeline.cli.log_text import print_log

        print_log(log(recipe))


def _diff(options: argparse.Namespace) -> None:
    recipe = existing_recipe(options)
    from perdure.pipeline.cli.log import diff

    names = [known_version(recipe, options.recipe, name, "version") for name in (options.left, options.right)]
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
        write_new(options.to, text)


def _compare(options: argparse.Namespace) -> None:
    from perdure.launch.status import runs_below
    from perdure.pipeline.evaluate.report.compare import compare
    from perdure.pipeline.evaluate.report.compare_text import compare_table, render_compare

    found = compare([run for place in options.places for run in runs_below(place)])
    if options.html is not None:
        write_page(options.html, render_compare(found))
    if options.json:
        print_json(found)
    else:
        print(compare_table(found))


def _versions(options: argparse.Namespace) -> None:
    ACTIONS[options.action](options)


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "log": _log,
    "diff": _diff,
    "branch": _branch,
    "compare": _compare,
}
"""The commands by what follows `versions`."""
VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "versions": _versions,
} | ACTIONS
"""The commands by verb."""
