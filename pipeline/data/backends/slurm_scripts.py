"""Parts of batch scripts that all of Slurm's jobs share, and the script of an array of tasks."""

import re
import shlex
import sys
from pathlib import Path

from perdure.pipeline.recipe import Recipe, SlurmArrays
from perdure.pipeline.recipe.cluster import Cluster

PLAIN_PATH = re.compile(r"[\w/.,:@+=%-]+")
"""Paths that stand in a script's options as they are: sbatch has quoting rules of its own there."""


UNSAFE = r"[^A-Za-z0-9_.@-]"
"""What a job's name should not hold."""


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
    options += [*asked_of_every_job(cluster, gpus=bool(gpus)), *executor.options]
    logs = file.parent / "logs"
    options += log_options(logs, "slurm_", "%A_%a.log")
    log = shlex.quote(str(logs / "slurm_")) + '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.log"'
    header = header_text(f"{recipe.name}: {name}", file, options, log, directory or Path.cwd(), cluster)
    python, container = interpreter(cluster), container_options(cluster)
    # Without a step of its own a task starts sooner; containers need one.
    srun = f"srun --ntasks=1{container} " if container else ""
    hidden = "" if gpus else " CUDA_VISIBLE_DEVICES="  # clusters that confine no job show it all of a node's
    return ARRAY.format(
        header=header, without_gpus=hidden, command=f"exec {srun}{shlex.join([python, '-m', *module])}"
    )


def header_text(
    title: str, file: Path, options: list[str], log: str, directory: Path, cluster: Cluster
) -> str:
    """The first lines of a batch script: what sbatch is asked for, its log, directory and environment."""
    return HEADER.format(
        title=title,
        file=shlex.quote(file.name),
        options="\n".join(f"#SBATCH {option}" for option in options),
        log=log,
        directory=shlex.quote(str(directory)),
        environment=shell_environment(cluster),
    )


def log_options(folder: Path, name: str, pattern: str = "") -> list[str]:
    """sbatch options for a job's log, which hold until the script redirects its output itself.

    Args:
        folder: Where the log stands. Where sbatch might read its path otherwise, Slurm's default is left: `slurm-<job>.out`
            in the directory of the submission.
        name: The log's name, or its beginning.
        pattern: The rest of it, in which sbatch replaces `%A` and the like.
    """
    path = str(folder / name)
    log = [f"--output={path.replace('%', '%%')}{pattern}"] if PLAIN_PATH.fullmatch(path) else []
    return ["--open-mode=append", *log]  # a requeue would truncate it


def asked_of_every_job(cluster: Cluster, gpus: bool) -> list[str]:
    """sbatch options of the site for every job: partition, account, quality of service, time."""
    slurm = cluster.slurm
    partition = slurm.partition if gpus else slurm.cpu_partition or slurm.partition
    asked = {"partition": partition, "account": slurm.account, "qos": slurm.qos, "time": slurm.time_limit}
    return [f"--{name}={value}" for name, value in asked.items() if value is not None]


def shell_environment(cluster: Cluster, **more: str) -> str:
    """Shell lines that set a job's variables and run `cluster.setup`."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in (cluster.variables | more).items()]
    if cluster.handed_over:
        lines.append(SETUP.format(names=", ".join(cluster.environment) or "nothing"))
    return "".join(lines)


def container_options(cluster: Cluster) -> str:
    """srun options of the site's container, with a leading blank; empty without one."""
    if cluster.container is None:
        return ""
    options = [f"--container-image={cluster.container.image}"]
    if cluster.container.mounts:
        options.append(f"--container-mounts={','.join(cluster.container.mounts)}")
    return " " + shlex.join(options)


def interpreter(cluster: Cluster) -> str:
    """The Python interpreter of the jobs: the container's, or the one that is running."""
    return "python" if cluster.container else sys.executable
