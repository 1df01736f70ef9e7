"""Slurm's commands: submitting a script, asking the queue."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from perdure.pipeline.core.errors import PerdureError

HANDED_OVER = "PERDURE_SETUP"
"""Variable in which jobs find what their recipe does not hold."""

OF_THE_USER = ("SLURM_CONF", "SLURM_CLUSTERS")
"""What says inside of a job, too, which Slurm is meant."""


def sbatch(
    script: Path, name: str, options: Sequence[str] = (), submitted: Sequence[str] = (), setup: str = ""
) -> str:
    """Submits a job.

    Args:
        script: Its file.
        name: The job's, for the error.
        options: Of sbatch; they overrule those in the script.
        submitted: Ids of jobs that are cancelled if this one is refused.
        setup: What is handed over to it, see `perdure.pipeline.recipe.cluster`.

    Returns:
        The job's id.

    Raises:
        PerdureError: If sbatch refuses it, or is not there.
    """
    # Inside of a job, its own size would overrule the script's: steps read it from what they inherit.
    clean = {
        key: value
        for key, value in os.environ.items()
        if "SLURM_JOB_ID" not in os.environ or not key.startswith("SLURM_") or key in OF_THE_USER
    }
    # A user's SBATCH_* are defaults: sbatch lets them overrule what stands in a script, but not its command line.
    marked = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    written = [line.removeprefix("#SBATCH ") for line in marked]
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *written, *_handing_over(written, setup), *options, str(script)],
            capture_output=True,
            text=True,
            env=clean | ({HANDED_OVER: setup} if setup else {}),
        )
    except FileNotFoundError:
        raise PerdureError(
            "sbatch: not found; run this on a node that submits to Slurm, or add --print"
        ) from None
    if done.returncode:
        if submitted:
            subprocess.run(["scancel", *submitted], capture_output=True)
        raise PerdureError(
            f"{name}: sbatch refused it: {' '.join(done.stderr.split())}; nothing new was left in the queue"
        )
    return done.stdout.strip().split(";")[0]


def _handing_over(written: list[str], setup: str) -> list[str]:
    """Options that pass `PERDURE_SETUP` to a job although a site or the recipe keeps the environment from it."""
    asked = [option.partition("=")[2] for option in written if option.startswith("--export=")]
    passed = (asked or [os.environ.get("SBATCH_EXPORT", "ALL")])[-1]
    if not setup or "ALL" in passed.split(","):
        return []
    names = [] if passed in ("NONE", "NIL") else [passed]
    return [f"--export={','.join([*names, HANDED_OVER])}"]


MAX_ARRAY_SIZE = 1001
"""Slurm's default of the jobs that an array may have."""


def in_queue(job: str) -> bool:
    """Whether any task of an array may still be worked on. While the controller does not answer, none has ended."""
    answer = _ask("squeue", "--noheader", f"--user={os.getuid()}", "--format=%F")
    return answer is None or job in answer.split()


def max_array_size() -> int:
    """Jobs that an array may have."""
    lines = (_ask("scontrol", "show", "config") or "").splitlines()
    sizes = [line.split("=")[1] for line in lines if line.startswith("MaxArraySize")]
    return int(sizes[0]) if sizes else MAX_ARRAY_SIZE


def _ask(*command: str) -> str | None:
    """Output of a Slurm command; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise PerdureError(
            f"data.executor: {command[0]}: not found; run this on a node that submits to Slurm, or choose executor "
            "{type: local}"
        ) from None
    return None if done.returncode else done.stdout
