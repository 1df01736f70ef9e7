"""Slurm: a chain of batch scripts, readable and runnable by hand (`sbatch FILE`, with `PERDURE_SETUP` exported where the recipe
has an environment or a setup).

What the recipe and the site say reaches the shell quoted, or is refused by the types of `recipe/cluster.py`.
"""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from perdure.launch.chain import Job
from perdure.pipeline.recipe import Recipe, SlurmArrays
from perdure.pipeline.recipe.cluster import Cluster


@dataclass(frozen=True)
class Size:
    """What a training job occupies: nodes, GPUs of each (0 on a cluster of CPUs), ranks on each."""

    nodes: int
    gpus_per_node: int
    ranks_per_node: int


PLAIN_PATH = re.compile(r"[\w/.,:@+=%-]+")
"""Paths that stand in a script's options as they are: sbatch has quoting rules of its own there."""
UNSAFE = r"[^A-Za-z0-9_.@-]"
"""What a job's name should not hold."""

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

ARRAY = """\
{header}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}}"{without_gpus}
{command}
"""

HEADER = """\
#!/bin/bash
# {title}. Written by `perdure launch`; to submit it by hand: sbatch {file}
{options}
set -uo pipefail
exec >> {log} 2>&1
cd -- {directory} || exit 1
unset SLURM_EXPORT_ENV # steps get what is set here, also where a site's SBATCH_EXPORT is NONE
if [ -n "${{SLURM_CPUS_PER_TASK:-}}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
{environment}"""

SETUP = """\
# Sets {names} and runs cluster.setup. `perdure launch` hands the values over; no file holds them.
eval "${{PERDURE_SETUP?is not set; submit by perdure launch, or export it}}"
"""


def render(job: Job, recipe: Recipe, size: Size, directory: Path, python: str) -> tuple[Path, str]:
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
    container = _container(cluster)
    log, options = log_file(recipe, job), _options(job, recipe, size)
    options += log_options(log.parent, log.name)
    quoted = shlex.quote(str(log))
    header = _header(f"{recipe.name}: {job.name}", file, options, quoted, directory, cluster)
    python = shlex.quote(python)
    if job.ranks:
        assert job.version is not None
        return file, TRAIN.format(
            header=header,
            version=shlex.quote(str(recipe.directory / "versions" / job.version)),
            python=python,
            container=container,
            max_restarts=cluster.max_restarts,
            patience=cluster.max_restarts_without_progress,
        )
    template = COORDINATOR if job.coordinates else SINGLE
    return file, template.format(
        header=header, python=python, container=container, command=shlex.join(job.command)
    )


def array_script(
    recipe: Recipe,
    name: str,
    scoring: bool,
    file: Path,
    module: tuple[str, ...],
    directory: Path | None = None,
) -> str:
    """The batch script of an array of the data stage's tasks; each of its jobs reads its number from Slurm.

    Args:
        recipe: The recipe, whose `data.executor` is Slurm.
        name: Of the array's jobs; it may hold the name of a model's directory, and with it any character.
        scoring: Whether they score documents.
        file: Where the script will stand; logs go to `logs/` beside it.
        module: A module of Python to run, and its arguments.
        directory: Where jobs run; default: here.
    """
    cluster, executor = recipe.cluster, recipe.data.executor
    assert isinstance(executor, SlurmArrays)
    name, gpus = re.sub(UNSAFE, "_", name), executor.score_gpus * scoring
    options = [f"--job-name=perdure-{recipe.name}-{name}"]
    options += ["--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--requeue"]
    options += [f"--gpus-per-node={gpus}"] if gpus else []
    options += [*_asked(cluster, gpus=bool(gpus)), *executor.options]
    logs = file.parent / "logs"
    options += log_options(logs, "slurm_", "%A_%a.log")
    log = shlex.quote(str(logs / "slurm_")) + '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.log"'
    header = _header(f"{recipe.name}: {name}", file, options, log, directory or Path.cwd(), cluster)
    python, container = interpreter(cluster), _container(cluster)
    # Without a step of its own a task starts sooner; containers need one.
    srun = f"srun --ntasks=1{container} " if container else ""
    hidden = "" if gpus else " CUDA_VISIBLE_DEVICES="  # clusters that confine no job show it all of a node's
    return ARRAY.format(
        header=header, without_gpus=hidden, command=f"exec {srun}{shlex.join([python, '-m', *module])}"
    )


def _header(title: str, file: Path, options: list[str], log: str, directory: Path, cluster: Cluster) -> str:
    return HEADER.format(
        title=title,
        file=shlex.quote(file.name),
        options="\n".join(f"#SBATCH {option}" for option in options),
        log=log,
        directory=shlex.quote(str(directory)),
        environment=shell_environment(cluster),
    )


def log_options(folder: Path, name: str, pattern: str = "") -> list[str]:
    """Options with which sbatch writes a job's log, too: what comes before the script's first line that does.

    Args:
        folder: Where the log stands. Where sbatch might read its path otherwise, Slurm's default is left: `slurm-<job>.out`
            in the directory of the submission.
        name: The log's name, or its beginning.
        pattern: The rest of it, in which sbatch replaces `%A` and the like.
    """
    path = str(folder / name)
    log = [f"--output={path.replace('%', '%%')}{pattern}"] if PLAIN_PATH.fullmatch(path) else []
    return ["--open-mode=append", *log]  # a requeue would truncate it


def script_file(recipe: Recipe, job: Job) -> Path:
    """Where a job's script stands: with its version, or with the run."""
    return _place(recipe, job) / f"{job.name}.sbatch"


def log_file(recipe: Recipe, job: Job) -> Path:
    """What a job prints, all of its attempts one after another."""
    return _place(recipe, job) / f"{job.name}.log"


def _options(job: Job, recipe: Recipe, size: Size) -> list[str]:
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
    options += _asked(cluster, job.gpus)
    if cpus is not None:
        options.append(f"--cpus-per-task={cpus}")
    return [*options, *slurm.options]


def _asked(cluster: Cluster, gpus: bool) -> list[str]:
    """What the site says of every job: partition, account, quality of service, time."""
    slurm = cluster.slurm
    partition = slurm.partition if gpus else slurm.cpu_partition or slurm.partition
    asked = {"partition": partition, "account": slurm.account, "qos": slurm.qos, "time": slurm.time_limit}
    return [f"--{name}={value}" for name, value in asked.items() if value is not None]


def shell_environment(cluster: Cluster, **more: str) -> str:
    """Shell that sets the variables of a job, and takes what was handed over to it."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in (cluster.variables | more).items()]
    if cluster.handed_over:
        lines.append(SETUP.format(names=", ".join(cluster.environment) or "nothing"))
    return "".join(lines)


def _container(cluster: Cluster) -> str:
    if cluster.container is None:
        return ""
    options = [f"--container-image={cluster.container.image}"]
    if cluster.container.mounts:
        options.append(f"--container-mounts={','.join(cluster.container.mounts)}")
    return " " + shlex.join(options)


def _place(recipe: Recipe, job: Job) -> Path:
    return (
        recipe.directory / "launch"
        if job.version is None
        else (recipe.directory / "versions" / job.version / "launch")
    )


def interpreter(cluster: Cluster) -> str:
    """The Python of the jobs: the container's own, or the one that is running."""
    return "python" if cluster.container else sys.executable
