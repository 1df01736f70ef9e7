"""A sweep's runs as jobs of Slurm: each run's chain, with what several of them need in it once."""

import logging
from dataclasses import replace
from pathlib import Path

import yaml

from perdure.launch import queue, slurm
from perdure.launch.chain import Job, jobs
from perdure.launch.launch import misfits, recipe_file, recipe_text
from perdure.pipeline.core.errors import PerdureError, RecipeError
from perdure.pipeline.core.files import write_atomic, write_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.data.backends.slurm_scripts import interpreter
from perdure.pipeline.evaluate.record import data_sections, text_sections
from perdure.pipeline.recipe.cluster import JobSize, without_values
from perdure.pipeline.run.run import alone
from perdure.pipeline.run.sweep.spec import Run, SweepPlan
from perdure.pipeline.run.sweep.store import link, version_places, with_kept_steps
from perdure.pipeline.run.sweep.work import at, is_whole

logger = logging.getLogger(__name__)


def submit_sweep(plan: SweepPlan, size: JobSize, directory: Path, after: str | None) -> None:
    """Submits the runs that are not whole, and a job that writes the table when all have ended.

    Args:
        plan: From `load_sweep` with `size`.
        size: What a training job occupies.
        directory: Where jobs run.
        after: A Slurm job's id that all wait for.
    """
    root = at(plan, plan.runs[0].recipe)
    if found := misfits(root, "slurm", size, after):
        raise RecipeError(plan.name, found)
    for run in plan.runs:
        if live := queue.live_jobs(run.recipe):
            raise PerdureError(
                f"{plan.directory}: jobs of an earlier launch wait or run, such as those of {run.name}; wait for them, or: "
                f"scancel {' '.join(live.values())}"
            )
    with alone(root):
        todo, places = [], version_places(plan)
        for run in with_kept_steps(plan):
            link(plan, run, places[run.name])
            if not is_whole(run):
                todo.append(run)
                write_atomic(recipe_file(run.recipe), recipe_text(run.recipe))
        chain, names = sweep_jobs(plan, todo, places, size.ranks_per_node)
        table = Job("sweep", _table_command(plan), after=tuple(job.name for _, job, _ in chain), anyhow=True)
        python = interpreter(root.cluster)
        scripts = []
        rendered = [(run.recipe, unique, job) for run, unique, job in chain]
        for recipe, unique, job in [*rendered, (root, table, table)]:
            file, text = slurm.render(job, recipe, size, directory, python)
            write_atomic(file, text)
            scripts.append((unique, file))
        ids = queue.submit(scripts, after, setup=root.cluster.handed_over)
        for run in todo:
            submitted = {job: ids[unique] for job, unique in names[run.name].items()}
            write_json(queue.jobs_file(run.recipe), {"to": "slurm", "jobs": submitted})
    for unique, _ in scripts:
        logger.info(f"{unique.name:<40}job {ids[unique.name]}")
    logger.info(f"Next: perdure status {plan.directory}; the table comes to {plan.directory / 'sweep.html'}")


def sweep_jobs(
    plan: SweepPlan, runs: list[Run], places: dict[str, dict[str, Path]], ranks: int | None = None
) -> tuple[list[tuple[Run, Job, Job]], dict[str, dict[str, str]]]:
    """The jobs of some runs, each once.

    Jobs that make data or scores run one after another over all runs, because they may work on the same source; a run that
    fails does not keep the next ones from going on.

    Args:
        plan: The sweep.
        runs: Those to make.
        places: Where versions stand, see `version_places`.
        ranks: How many of the trainer's ranks one node holds.

    Returns:
        Per job its run, itself as submitted (its name has the run's before it, its `after` such names) and as rendered;
        and by run the names submitted under by those of its own chain, jobs of other runs that it shares included.
    """
    chain: list[tuple[Run, Job, Job]] = []
    names: dict[str, dict[str, str]] = {}
    made: dict[tuple[str, str], str] = {}
    last: tuple[str, ...] = ()
    texts: dict[str, dict] = {}
    for run in runs:
        own = names[run.name] = {}
        text, again = text_sections(run.recipe), False
        for job in jobs(run.recipe, recipe_file(run.recipe), ranks):
            if job.name == "data":
                job = replace(job, command=(*job.command, "--out", str(plan.directory)))
                what = "data", hash_of(data_sections(run.recipe))
            elif job.version:
                what = job.name, str(places[run.name][job.version])
            else:
                what = job.name, run.name
            if what in made:
                own[job.name] = made[what]
                again |= job.ranks and texts[made[what]] != text
                continue
            unique = own[job.name] = made[what] = f"{run.name}.{job.name}"
            texts[unique] = text
            if job.name == "report":  # it measures what another run trains and measures on another text
                job = replace(job, gpus=job.gpus or again)
            waits = tuple(dict.fromkeys(own[name] for name in job.after))
            behind: tuple[str, ...] = ()
            if job.command and job.name != "report":
                behind, last = tuple(name for name in last if name not in waits), (unique,)
            chain.append((run, replace(job, name=unique, after=waits, behind=behind), job))
    return chain, names


def _table_command(plan: SweepPlan) -> tuple[str, ...]:
    """Writes the sweep as it was submitted, for the job that makes its table; returns what that job runs."""
    folder = RunPaths(plan.directory).launch
    base = f"{plan.name}.recipe.yaml"  # no name of the sweep's own can be this
    write_atomic(folder / base, yaml.safe_dump(without_values(plan.base), sort_keys=False))
    sweep = plan.sweep.model_dump(mode="json") | {"recipe": base, "out": str(plan.directory)}
    write_atomic(folder / f"{plan.name}.yaml", yaml.safe_dump(sweep, sort_keys=False))
    return ("sweep", str(folder / f"{plan.name}.yaml"), "--report")
