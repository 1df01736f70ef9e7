"""What is asked of Slurm's queue: to take a chain of scripts, and what has become of jobs."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from perdure.launch.chain import Job
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.slurm import sbatch
from perdure.pipeline.recipe import Recipe


def submit(
    scripts: list[tuple[Job, Path]], after: str | None, live: Mapping[str, str] = {}, setup: str = ""
) -> dict[str, str]:
    """Hands the scripts to sbatch, each waiting for those it names.

    Args:
        scripts: Jobs and their files, in the order of the chain.
        after: A job's id that the first ones wait for, or None.
        live: Ids of jobs by name that stand in the queue already; they are not submitted again.
        setup: What is handed over to each, see `perdure.pipeline.recipe.cluster`.

    Returns:
        Job ids by name, in the order of the chain.

    Raises:
        PerdureError: If sbatch refuses one; those submitted before it are cancelled.
    """
    ids: dict[str, str] = {}
    for job, file in scripts:
        if job.name in live:
            ids[job.name] = live[job.name]
            continue
        kind = "afterany" if job.anyhow else "afterok"
        needed = [(kind, job.after), ("afterany", job.behind)]
        found = [(how, [ids[name] for name in names if name in ids]) for how, names in needed]
        if after and not any(waited for _, waited in found):
            found = [(kind, [after])]
        command = []
        if waits := [f"{how}:{':'.join(waited)}" for how, waited in found if waited]:
            command += [f"--dependency={','.join(waits)}", "--kill-on-invalid-dep=yes"]
        submitted = [number for name, number in ids.items() if name not in live]
        ids[job.name] = sbatch(file, job.name, command, submitted, setup)
    return ids


def jobs_file(recipe: Recipe) -> Path:
    """Ids of the jobs that a run was launched as, by name."""
    return recipe.paths.jobs


def live_jobs(recipe: Recipe) -> dict[str, str]:
    """Ids of the jobs of an earlier launch that wait or run, by name.

    Raises:
        PerdureError: If there was one and the queue does not answer, or some of its jobs are about to leave the queue: what
            waited for those would leave it with them.
    """
    if not (file := jobs_file(recipe)).exists():
        return {}
    ids: dict[str, str] = read_json(file)["jobs"]
    states = job_states(list(ids.values()))
    if states is None:
        raise PerdureError(
            f"squeue: no answer; it should say whether jobs of {file} are still in the queue; launch on a node with Slurm"
        )
    waits = _rows(list(states), "%i|%E") if states else None
    orphans = {
        job
        for job, waited in waits or []
        if any(
            other in ids.values() and other not in states for other in re.findall(r"afterok:(\d+)", waited)
        )
    }
    if leaving := [name for name, job in ids.items() if job in orphans or _is_leaving(states.get(job, ""))]:
        raise PerdureError(
            f"{recipe.directory}: {', '.join(leaving)} of an earlier launch are just leaving the queue; launch again when "
            "they have, in a minute or so"
        )
    return {name: job for name, job in ids.items() if job in states}


def _is_leaving(state: str) -> bool:
    return state == "COMPLETING" or "DependencyNeverSatisfied" in state


def job_states(ids: list[str], *options: str) -> dict[str, str] | None:
    """States by job id, with the reason of those that wait; None where there is no Slurm, or it does not answer.

    Args:
        ids: Of the jobs to look for.
        options: Of squeue; without any it tells of jobs that have not ended.
    """
    found = _rows(ids, "%i|%T|%r", *options)
    if found is None:
        return None
    return {job: f"{state} ({reason})" if state == "PENDING" else state for job, state, reason in found}


def _rows(ids: list[str], form: str, *options: str) -> list[list[str]] | None:
    try:
        done = subprocess.run(
            ["squeue", "--noheader", f"--jobs={','.join(ids)}", f"--format={form}", *options],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # what it says of one that it has forgotten
        return None
    return [row.strip().split("|") for row in done.stdout.splitlines() if row.count("|") == form.count("|")]
