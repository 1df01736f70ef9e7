"""`perdure launch`: a recipe's chain of jobs, rendered, saved beside the run, and handed to a scheduler."""

from collections.abc import Callable
from pathlib import Path

import yaml

from perdure.launch import slurm
from perdure.launch.chain import Job, jobs
from perdure.pipeline.check import load_checked
from perdure.pipeline.errors import Problem, RecipeError
from perdure.pipeline.manifest import disk_errors, write_atomic, write_json
from perdure.pipeline.recipe import Recipe, load_recipe

Say = Callable[[str], None]


def fitted(path: Path, overrides: list[str], out: Path | None, site: Path | None, size: slurm.Size) -> Recipe:
    """The recipe with as many data-parallel replicas as fill the nodes, `out` absolute, free of mistakes.

    Raises:
        RecipeError: If the nodes' ranks are no multiple of tensor x pipeline parallel, or the recipe has mistakes.
    """
    parallel = load_recipe(path, overrides, out).parallel
    ranks, replica = size.nodes * size.ranks_per_node, parallel.tensor_parallel * parallel.pipeline_parallel
    if ranks % replica:
        raise RecipeError(
            str(path),
            [
                Problem(
                    "parallel",
                    f"tensor {parallel.tensor_parallel} x pipeline {parallel.pipeline_parallel}",
                    f"should divide the {ranks} ranks of {size.nodes} nodes x {size.ranks_per_node}",
                )
            ],
        )
    recipe = load_checked(path, [*overrides, f"parallel.data_parallel={ranks // replica}"], out, site)
    return recipe.model_copy(update={"out": recipe.directory.resolve()})


def scripts(recipe: Recipe, size: slurm.Size, directory: Path) -> list[tuple[Job, Path, str]]:
    """Every job that the recipe still needs: the job, the file of its script, and the script."""
    python = slurm.interpreter(recipe.cluster)
    return [
        (job, *slurm.render(job, recipe, size, directory, python))
        for job in jobs(recipe, recipe_file(recipe))
    ]


def recipe_file(recipe: Recipe) -> Path:
    """The recipe as launched, which jobs read: what is edited later does not change what stands in the queue."""
    return recipe.directory / "launch" / "recipe.yaml"


def launch(recipe: Recipe, size: slurm.Size, directory: Path, after: str | None, say: Say) -> None:
    """Writes the scripts and submits them.

    Args:
        recipe: From `fitted`.
        size: What a training job occupies.
        directory: Where jobs run.
        after: A job's id that the chain waits for.
        say: Receives lines for the console.
    """
    rendered = scripts(recipe, size, directory)
    with disk_errors(recipe.directory):
        write_atomic(recipe_file(recipe), yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        for _, file, text in rendered:
            write_atomic(file, text)
        ids = slurm.submit([(job, file) for job, file, _ in rendered], after)
        write_json(recipe.directory / "launch" / "jobs.json", {"to": "slurm", "jobs": ids})
    parallel = recipe.parallel
    say(
        f"{size.nodes} nodes x {size.ranks_per_node} ranks = tensor {parallel.tensor_parallel} x pipeline "
        f"{parallel.pipeline_parallel} x data {parallel.data_parallel}"
    )
    for job, file, _ in rendered:
        waits = f" after {', '.join(job.after)}" if job.after else ""
        say(f"{job.name:<24}job {ids[job.name]}{waits}; {file}")
    say(f"Next: perdure status {recipe.directory}")
