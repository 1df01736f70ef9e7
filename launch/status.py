"""Where a run stands, from its files alone, on any machine that sees its directory; the queue's word is added if there
is one to ask."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from perdure.launch.attempt import attempts, newest_step
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.evaluate.words import duration_words
from perdure.pipeline.manifest import is_finished, read_json
from perdure.pipeline.plan import num_steps
from perdure.pipeline.recipe import Recipe

TAIL = 1 << 16
"""Bytes of a metrics file's end that surely hold its last line."""


def status(directory: Path) -> dict[str, Any]:
    """Where a run stands.

    Args:
        directory: The run's directory (`out` of its recipe).

    Returns:
        `sources` (name, state), `work` (artefact, step, done, tasks: pipelines of the data stage and of scoring that are
        under way), `versions` (name, state, step, steps, tokens_per_second, eta_seconds,
        seconds_since_step, checkpoint, attempts, loss), and `jobs` (name, id, state) of a launched run. States of
        versions: `finished`, `evaluating` (all steps done), `training`, `prepared`, `waiting`.

    Raises:
        PerdureError: If there is no run.
    """
    recipe = _recipe(directory)
    sources = [
        {
            "name": name,
            "state": "finished" if any(map(is_finished, directory.glob(f"data/{name}@*"))) else "waiting",
        }
        for name in recipe.sources
    ]
    return {
        "run": recipe.name,
        "directory": str(directory),
        "sources": sources,
        "work": _work(directory),
        "versions": [_version(directory / "versions" / name, recipe, name) for name in recipe.versions],
        "jobs": _jobs(directory),
    }


def runs_below(directory: Path) -> list[Path]:
    """The runs of a sweep in the order of their names; for any other directory itself alone."""
    runs = [path.parent for path in sorted(directory.glob("runs/*/versions"))]
    return runs or [directory]


def log_files(directory: Path, version: str | None) -> list[Path]:
    """The logs of a launched run's jobs, oldest first; of one version's alone if it is named.

    Raises:
        PerdureError: If there is none.
    """
    everything = [directory, *directory.glob("versions/*"), *directory.glob("runs/*")]
    places = [directory / "versions" / version] if version else everything
    found = sorted(
        (file for place in places for file in place.glob("launch/*.log")),
        key=lambda file: file.stat().st_mtime,
    )
    if not found:
        raise PerdureError(
            f"{directory}: no job has written a log yet; `perdure status {directory}` says what it waits for"
        )
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """What `status` returned, for the console."""
    waiting = [source["name"] for source in found["sources"] if source["state"] != "finished"]
    text = [
        f"{found['run']}  {found['directory']}",
        f"data      {len(found['sources']) - len(waiting)} of {len(found['sources'])} sources"
        + (f"; waiting: {', '.join(waiting)}" if waiting else ""),
    ]
    for work in found["work"]:
        text.append(
            f"          {work['artefact']}: {work['step']}, {work['done']} of {work['tasks']} tasks done"
        )
    for version in found["versions"]:
        parts = [f"{version['name']:<10}{version['state']}"]
        if version["state"] in ("training", "evaluating"):
            parts.append(f"step {version['step']:,}/{version['steps']:,}")
            if version["tokens_per_second"]:
                parts.append(f"{version['tokens_per_second']:,.0f} tokens/s")
            if version["state"] == "training" and version["eta_seconds"] is not None:
                parts.append(f"ETA {duration_words(version['eta_seconds'])}")
            if version["seconds_since_step"] is not None:
                parts.append(f"last step {duration_words(version['seconds_since_step'])} ago")
            parts.append(f"checkpoint {version['checkpoint'] or 'none'}")
        if version["attempts"] > 1:
            parts.append(f"attempt {version['attempts']}")
        text.append("  ".join(parts))
    for job in found["jobs"]:
        text.append(f"job {job['id']:<8}{job['name']:<24}{job['state']}")
    return text


def _recipe(directory: Path) -> Recipe:
    """The recipe as launched, or as the newest version recorded it."""
    files = [directory / "launch" / "recipe.yaml"]
    files += sorted(directory.glob("versions/*/recipe.yaml"), key=lambda file: -file.stat().st_mtime)
    for file in files:
        if file.exists():
            return Recipe.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    raise PerdureError(f"{directory}: no run of Perdure here; give the directory that `perdure run` wrote to")


def _work(directory: Path) -> list[dict[str, Any]]:
    """Pipelines that have begun and are not whole."""
    found = []
    for record in sorted(directory.glob("work/*/*/tasks")):
        step, tasks = record.parent, int(record.read_text())
        done = len(list(step.glob("completions/*")))
        if done < tasks:
            found.append({"artefact": step.parent.name, "step": step.name, "done": done, "tasks": tasks})
    return found


def _version(directory: Path, recipe: Recipe, name: str) -> dict[str, Any]:
    steps, line = num_steps(recipe, recipe.versions[name]), _last_line(directory / "metrics.jsonl")
    step = line["step"] if line else 0
    if is_finished(directory):
        state = "finished"
    elif step:
        state = "evaluating" if step == steps else "training"
    else:
        state = "prepared" if (directory / "inputs.json").exists() else "waiting"
    rate = line["tokens_per_second"] if line else None
    tokens_left = (steps - step) * recipe.training.seq_length * recipe.training.global_batch_size
    return {
        "name": name,
        "state": state,
        "step": step,
        "steps": steps,
        "loss": line["loss"] if line else None,
        "tokens_per_second": rate,
        "eta_seconds": tokens_left / rate if rate else None,
        "seconds_since_step": time.time() - (directory / "metrics.jsonl").stat().st_mtime if line else None,
        "checkpoint": newest_step(directory),
        "attempts": len(attempts(directory)),
    }


def _last_line(file: Path) -> dict | None:
    """The last whole line of a JSONL file, read from its end."""
    if not file.exists():
        return None
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - TAIL))
        whole = stream.read().rpartition(b"\n")[0]
    return json.loads(whole.rpartition(b"\n")[2]) if whole else None


def _jobs(directory: Path) -> list[dict[str, str]]:
    if not (directory / "launch" / "jobs.json").exists():
        return []
    ids: dict[str, str] = read_json(directory / "launch" / "jobs.json")["jobs"]
    states = _queue(list(ids.values()))
    return [
        {"name": name, "id": job, "state": states.get(job, "not in the queue")} for name, job in ids.items()
    ]


def _queue(ids: list[str]) -> dict[str, str]:
    """States by job id, with the reason of those that wait; empty where there is no Slurm."""
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}", "--format=%i|%T|%r"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    rows = [row.strip().split("|") for row in done.stdout.splitlines() if row.count("|") == 2]
    return {job: f"{state} ({reason})" if state == "PENDING" else state for job, state, reason in rows}
