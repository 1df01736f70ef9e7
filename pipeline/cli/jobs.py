"""`perdure launch`, `status` and `logs`: a recipe's jobs, and what has become of them."""

import argparse
import sys
from pathlib import Path

from perdure.pipeline.core.console import print_json, visible_line
from perdure.pipeline.recipe.cluster import JobSize


def launch(options: argparse.Namespace) -> None:
    """Submits a recipe's chain of jobs, or prints what would be submitted."""
    from perdure.launch.launch import fitted, misfits, texts
    from perdure.launch.launch import launch as submit
    from perdure.pipeline.core.errors import RecipeError

    size = size_of(options)
    recipe = fitted(options.recipe, options.set, options.out, options.site, size)
    if found := misfits(recipe, options.to, size, options.after):
        raise RecipeError(str(options.recipe), found)
    if options.print:
        for file, text in texts(recipe, options.to, size, Path.cwd(), values=True):
            print(f"# ==> {visible_line(file)}\n{text}")
    else:
        submit(recipe, options.to, size, Path.cwd(), options.after)


def size_of(options: argparse.Namespace) -> JobSize:
    """What the command line says of a training job's size."""
    ranks = options.ranks_per_node or options.gpus_per_node or 1
    return JobSize(options.nodes, options.gpus_per_node, ranks)


def status(options: argparse.Namespace) -> None:
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


def logs(options: argparse.Namespace) -> None:
    """Prints what a run's jobs have said, or follows it."""
    from perdure.launch.logs import follow, log_files

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
