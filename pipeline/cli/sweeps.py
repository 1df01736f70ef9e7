"""`perdure sweep`: a recipe with several values of some fields, run here or submitted."""

import argparse
from pathlib import Path

from perdure.pipeline.cli.jobs import size_of
from perdure.pipeline.core.errors import Problem, RecipeError
from perdure.pipeline.core.manifest import disk_errors
from perdure.pipeline.run.sweep.spec import load_sweep


def sweep(options: argparse.Namespace) -> None:
    """Lists, runs, submits or reports a sweep, as the command line asks."""
    size = size_of(options) if options.to else None
    for name, default in (("nodes", 1), ("gpus_per_node", 0), ("ranks_per_node", None), ("after", None)):
        if size is None and (value := getattr(options, name)) != default:
            problem = Problem(
                f"--{name.replace('_', '-')}", value, "has no use here; it goes with --to slurm"
            )
            raise RecipeError(str(options.recipe), [problem])
    plan = load_sweep(
        options.recipe,
        options.over,
        options.seeds,
        options.set,
        options.out,
        options.site,
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
