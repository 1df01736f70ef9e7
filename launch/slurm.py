"""Slurm: a chain of batch scripts, readable and runnable by hand (`sbatch FILE`, with `PERDURE_SETUP` exported where the recipe
has an environment or a setup).

What the recipe and the site say reaches the shell quoted, or is refused by the types of `recipe/cluster.py`.
"""

import shlex
from pathlib import Path

from perdure.launch.chain import Job
from perdure.pipeline.data.backends.slurm_scripts import (
    asked_of_every_job,
    container_options,
    header_text,
    log_options,
)
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.cluster import JobSize

TRAIN = """\
{header}
# The ranks talk to one another through the first node.
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)"
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export PERDURE_ATTEMPT="$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}"

VERSION={version}
attempt() {{ srun --nodes=1 --ntasks=1{container} {python} -m perdure.launch.attempt "$@"; }}
# Counts the attempts; refuses another one after too many, or after too many without a new checkpoint.
attempt begin "$VERSION" --max-restarts {max_restarts} --patience {patience} || exit 1
# One task is one rank: the signal before the time limit reaches the trainer, which saves and ends.
ranks() {{ srun --kill-on-bad-exit=1{container} {python} -m perdure.launch.rank "$@"; }}
ranks preflight "$VERSION" && ranks train "$VERSION"
# Whole: ends well. Another start trains it (3): ends as failed. Else: back into the queue, to go on from the last checkpoint.
attempt end "$VERSION"
case $? in 0) exit 0 ;; 3) exit 1 ;; esac
scontrol requeue "$SLURM_JOB_ID"
sleep 60 # the requeue ends this script
exit 1
"""

SINGLE = """\
{header}
srun --ntasks=1{container} {python} -m perdure.pipeline.cli {command}
"""

COORDINATOR = """\
{header}
# It hands its tasks to arrays and waits for them. Before its time is over it goes back into the queue, to wait on.
trap 'scontrol requeue "$SLURM_JOB_ID"; sleep 60; exit 1' USR1
srun --ntasks=1{container} {python} -m perdure.pipeline.cli {command} &
wait "$!"
"""


def render(job: Job, recipe: Recipe, size: JobSize, directory: Path, python: str) -> tuple[Path, str]:
    """The batch script of one job.

    Args:
        job: The job.
        recipe: The recipe, its `out` absolute.
        size: What its training jobs occupy.
        directory: Where jobs run; relative paths of the recipe start there.
        python: The interpreter of the jobs' environment.

    Returns:
        The file that the script belongs into, and its text.
    """
    cluster, file = recipe.cluster, script_file(recipe, job)
    container = container_options(cluster)
    log, options = log_file(recipe, job), _options(job, recipe, size)
    options += log_options(log.parent, log.name)
    quoted = shlex.quote(str(log))
    header = header_text(f"{recipe.name}: {job.name}", file, options, quoted, directory, cluster)
    python = shlex.quote(python)
    if job.ranks:
        assert job.version is not None
        return file, TRAIN.format(
            header=header,
            version=shlex.quote(str(recipe.paths.version(job.version).directory)),
            python=python,
            container=container,
            max_restarts=cluster.max_restarts,
            patience=cluster.max_restarts_without_progress,
        )
    template = COORDINATOR if job.coordinates else SINGLE
    return file, template.format(
        header=header, python=python, container=container, command=shlex.join(job.command)
    )


def script_file(recipe: Recipe, job: Job) -> Path:
    """Where a job's script stands: with its version, or with the run."""
    return _place(recipe, job) / f"{job.name}.sbatch"


def log_file(recipe: Recipe, job: Job) -> Path:
    """What a job prints, all of its attempts one after another."""
    return _place(recipe, job) / f"{job.name}.log"


def _options(job: Job, recipe: Recipe, size: JobSize) -> list[str]:
    slurm, cluster = recipe.cluster.slurm, recipe.cluster
    options = [f"--job-name=perdure-{recipe.name}-{job.name}"]
    cpus: int | None = recipe.data.workers
    if job.ranks:
        options += [f"--nodes={size.nodes}", f"--ntasks-per-node={size.ranks_per_node}"]
        options += [f"--signal=USR1@{cluster.grace_seconds}", "--requeue"]
        cpus = slurm.cpus_per_task
    elif job.coordinates:
        options += ["--nodes=1", "--ntasks=1", f"--signal=B:USR1@{cluster.grace_seconds}", "--requeue"]
        # It waits, but what it measures by ranks before.
        cpus = size.ranks_per_node * (slurm.cpus_per_task or 1) if job.gpus else 1
    else:
        options += ["--nodes=1", "--ntasks=1", "--no-requeue"]
    if job.gpus and size.gpus_per_node:
        options.append(f"--gpus-per-node={size.gpus_per_node}")
    options += asked_of_every_job(cluster, job.gpus)
    if cpus is not None:
        options.append(f"--cpus-per-task={cpus}")
    return [*options, *slurm.options]


def _place(recipe: Recipe, job: Job) -> Path:
    return recipe.paths.launch if job.version is None else recipe.paths.version(job.version).launch
