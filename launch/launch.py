"""`perdure launch`: a recipe's chain of jobs, rendered, saved beside the run, and handed to a scheduler."""

import logging
import os
import shlex
import sys
from pathlib import Path

import yaml

from perdure.launch import local, queue, slurm
from perdure.launch.backends import MANIFESTS, manifest
from perdure.launch.chain import Job, jobs
from perdure.pipeline.checks.check import filling
from perdure.pipeline.core.errors import PerdureError, Problem, RecipeError
from perdure.pipeline.core.files import write_atomic, write_json
from perdure.pipeline.core.manifest import disk_errors
from perdure.pipeline.core.slurm import HANDED_OVER
from perdure.pipeline.data.backends.slurm_scripts import interpreter
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.recipe import Recipe, RecipeSource, SlurmArrays, read_tree
from perdure.pipeline.recipe.cluster import JobSize

logger = logging.getLogger(__name__)


def fitted(source: RecipeSource, size: JobSize) -> Recipe:
    """The recipe with as many data-parallel replicas as fill the nodes, `out` absolute, free of mistakes.

    Raises:
        RecipeError: If the nodes' ranks are no multiple of tensor x pipeline parallel, or the recipe has mistakes.
    """
    tree, found = filling(read_tree(source), size.nodes, size.ranks_per_node)
    if found:
        raise RecipeError(str(source.path), found)
    recipe = Recipe.model_validate(tree)
    return recipe.model_copy(update={"out": recipe.directory.resolve()})


def misfits(recipe: Recipe, to: str, size: JobSize, after: str | None) -> list[Problem]:
    """What a recipe or the command line asks for that cannot be had there."""
    found = []
    if to == "local" and size.nodes > 1:
        found.append(Problem("--nodes", size.nodes, "should be 1 with --to local, which is this machine"))
    if 0 < size.gpus_per_node < size.ranks_per_node:
        remedy = f"should be at most --gpus-per-node ({size.gpus_per_node}): each rank has a GPU of its own"
        found.append(Problem("--ranks-per-node", size.ranks_per_node, remedy))
    if to == "local" and size.gpus_per_node:
        import torch

        if size.gpus_per_node > (gpus := torch.cuda.device_count()):
            found.append(Problem("--gpus-per-node", size.gpus_per_node, f"this machine has {gpus}"))
    if to != "slurm" and after is not None:
        found.append(Problem("--after", after, "is an id of Slurm; use it with --to slurm"))
    if to in MANIFESTS and isinstance(recipe.data.executor, SlurmArrays):
        found.append(Problem("data.executor.type", "slurm", f"should be local or ray with --to {to}"))
    return found


def recipe_file(recipe: Recipe) -> Path:
    """The recipe as launched, which jobs read: what is edited later does not change what stands in the queue."""
    return recipe.paths.launched_recipe


def texts(
    recipe: Recipe, to: str, size: JobSize, directory: Path, values: bool = False
) -> list[tuple[Path, str]]:
    """What is handed to the scheduler: files and their texts.

    Args:
        recipe: From `fitted`.
        to: One of `backends.BACKENDS`.
        size: What a training job occupies.
        directory: Where jobs run; relative paths of the recipe start there.
        values: Whether manifests hold the values of `cluster.environment` and `cluster.setup`, which no file may.
    """
    if to == "slurm":
        return [(file, text) for _, file, text in _scripts(recipe, size, directory, {})]
    if to == "local":
        return [(local.script_file(recipe), local.render(recipe, recipe_file(recipe), size, directory))]
    return [(recipe.paths.launch / f"{to}.yaml", manifest(to, recipe, size, directory, values))]


def launch(recipe: Recipe, to: str, size: JobSize, directory: Path, after: str | None) -> None:
    """Writes the texts, and submits them where that is one command away. On this machine it becomes the run itself.

    Args:
        recipe: From `fitted`.
        to: One of `backends.BACKENDS`.
        size: What a training job occupies.
        directory: Where jobs run.
        after: A Slurm job's id that the chain waits for.
    """
    layout, content = layout_of(recipe), recipe_text(recipe)
    live = _live_jobs(recipe, content) if to == "slurm" else {}
    chain = _scripts(recipe, size, directory, live) if to == "slurm" else []
    rendered = [(file, text) for _, file, text in chain] or texts(recipe, to, size, directory)
    with disk_errors(recipe.directory):
        write_atomic(recipe_file(recipe), content)
        for file, text in rendered:
            write_atomic(file, text)
    logger.info(
        f"{size.nodes} nodes x {size.ranks_per_node} ranks = tensor {layout.tensor} x pipeline "
        f"{layout.pipeline} x data {layout.data}{'' if size.gpus_per_node else ', on CPUs'}"
    )
    if to == "slurm":
        _submit(recipe, chain, live, after)
    elif to != "local":
        file, backend = rendered[0][0], MANIFESTS[to]
        logger.info(f"wrote {file}; to start it: {backend.start} {shlex.quote(str(file))}")
        if recipe.cluster.handed_over:
            logger.info(
                "the file has no values of cluster.environment and cluster.setup; with them it is what --print shows: add "
                f"`--print | {backend.piped}`, or hand {HANDED_OVER} over yourself"
            )
        if to == "k8s" and recipe.cluster.kubernetes.kind == "trainjob":
            runtime = recipe.cluster.kubernetes.runtime
            logger.info(
                f"restarts of a TrainJob are its runtime's ({runtime}); cluster.max_restarts holds for kind: jobset"
            )
    logger.info(f"Next: perdure status {recipe.directory}")
    if to == "local":
        sys.stdout.flush()
        os.environ[HANDED_OVER] = recipe.cluster.handed_over
        os.execvp("bash", ["bash", str(rendered[0][0])])


def hours(time_limit: str) -> float:
    """Hours of a Slurm time limit: minutes, minutes:seconds, hours:minutes:seconds, or days-hours[:minutes[:seconds]]."""
    days, dash, rest = time_limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hour, minute, second = [*parts, 0, 0][:3]
    else:
        hour, minute, second = 0, *[*parts, 0][:2]
    return 24 * int(days or 0) + hour + minute / 60 + second / 3600


def recipe_text(recipe: Recipe) -> str:
    """What stands in `recipe_file`."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _live_jobs(recipe: Recipe, content: str) -> dict[str, str]:
    """Jobs of an earlier launch that wait or run, which the chain shares if it is the same recipe's."""
    live = queue.live_jobs(recipe)
    if live and recipe_file(recipe).read_text(encoding="utf-8") != content:
        raise PerdureError(
            f"{recipe.directory}: {', '.join(live)} of an earlier launch wait or run, and the recipe has changed since; wait "
            f"for them, or: scancel {' '.join(live.values())}"
        )
    return live


def _submit(
    recipe: Recipe,
    chain: list[tuple[Job, Path, str]],
    live: dict[str, str],
    after: str | None,
) -> None:
    ids = queue.submit([(job, file) for job, file, _ in chain], after, live, recipe.cluster.handed_over)
    write_json(queue.jobs_file(recipe), {"to": "slurm", "jobs": ids})
    if limit := recipe.cluster.slurm.time_limit:
        times = recipe.cluster.max_restarts + 1
        logger.info(
            f"a training job may run {times} times for {limit}, {times * hours(limit):,.1f} hours in all "
            "(cluster.max_restarts, cluster.slurm.time_limit)"
        )
    if live:
        logger.info(f"in the queue from an earlier launch, not submitted again: {', '.join(live)}")
    for job, file, _ in chain:
        waits = f" after {', '.join(job.after)}" if job.after else ""
        logger.info(f"{job.name:<24}job {ids[job.name]}{waits}; {file}")


def _scripts(
    recipe: Recipe, size: JobSize, directory: Path, live: dict[str, str]
) -> list[tuple[Job, Path, str]]:
    python = interpreter(recipe.cluster)
    return [
        (job, *slurm.render(job, recipe, size, directory, python))
        for job in jobs(recipe, recipe_file(recipe), size.ranks_per_node, live)
    ]
