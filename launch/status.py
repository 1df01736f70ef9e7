"""Where a run stands, from its files alone, on any machine that sees its directory; the queue's word is added if there
is one to ask."""

import time
from pathlib import Path
from typing import Any

from perdure.launch.attempt import attempts, newest_step
from perdure.launch.queue import job_states
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.formats import format_duration
from perdure.pipeline.core.integrity import json_lines
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import RunPaths, VersionPaths
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.recorded import recorded, version_recipe
from perdure.pipeline.recipe import Recipe, load_recipe

TAIL = 1 << 16
"""Bytes of a metrics file's end that surely hold its last line."""
STEPS = 20
"""Steps whose mean speed is shown: a single one is now quicker, now slower."""
OLD_SECONDS, OLD_STEPS = 120, 10
"""A last step that is older than both says that nobody works on the version, where nothing else says so."""
RUNNING = ("RUNNING", "COMPLETING")
UNKNOWN = "unknown: no queue to ask here"


def status(directory: Path) -> dict[str, Any]:
    """Where a run stands.

    Args:
        directory: The run's directory (`out` of its recipe).

    Returns:
        `sources` (name, state), `work` (artefact, step, done, tasks: pipelines of the data stage and of scoring that are
        under way), `versions` (name, state, step, steps, tokens_per_second, eta_seconds,
        seconds_since_step, checkpoint, attempts, loss), and `jobs` (name, id, state) of a launched run. States of
        versions: `finished`, `evaluating` (all steps done), `training`, `interrupted` (begun, but the queue says that its
        job does not run; or, without a queue, its last step is old and no command works here), `prepared`, `waiting`.

    Raises:
        PerdureError: If there is no run.
    """
    recipe = _recipe(directory).model_copy(update={"out": directory})
    sources = [
        {
            "name": name,
            "state": "finished" if any(map(is_finished, directory.glob(f"data/{name}@*"))) else "waiting",
        }
        for name in recipe.sources
    ]
    jobs = _jobs(directory)
    running = _running(directory, recipe, jobs)
    return {
        "run": recipe.name,
        "directory": str(directory),
        "sources": sources,
        "work": _work(directory),
        "versions": [
            _version(
                RunPaths(directory).version(name), made, name, None if running is None else name in running
            )
            for name, made in recorded(recipe).items()
        ],
        "jobs": jobs,
    }


def runs_below(directory: Path) -> list[Path]:
    """The runs of a sweep in the order of their names; for any other directory itself alone."""
    runs = [path.parent for path in sorted(directory.glob("runs/*/versions"))]
    return runs or [directory]


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
        if version["state"] in ("training", "evaluating", "interrupted"):
            parts.append(f"step {version['step']:,}/{version['steps']:,}")
            if version["tokens_per_second"]:
                parts.append(f"{version['tokens_per_second']:,.0f} tokens/s")
            if version["state"] == "training" and version["eta_seconds"] is not None:
                parts.append(f"ETA {format_duration(version['eta_seconds'])}")
            if version["seconds_since_step"] is not None:
                parts.append(f"last step {format_duration(version['seconds_since_step'])} ago")
            parts.append(f"checkpoint {version['checkpoint'] or 'none'}")
        if version["attempts"] > 1:
            parts.append(f"attempt {version['attempts']}")
        text.append("  ".join(parts))
    for job in found["jobs"]:
        text.append(f"job {job['id']:<8}{job['name']:<24}{job['state']}")
    return text


def _recipe(directory: Path) -> Recipe:
    """The recipe as it was last launched or prepared; other runs' of a sweep, whose versions are links, come last."""
    files = [RunPaths(directory).launched_recipe, *directory.glob("versions/*/recipe.yaml")]
    found = sorted(
        (file for file in files if file.exists()),
        key=lambda file: (file.parent.is_symlink(), -file.stat().st_mtime),
    )
    if found:
        place = found[0].parent
        return load_recipe(found[0]) if place.name == "launch" else version_recipe(place)
    if RunPaths(directory).work.is_dir():
        raise PerdureError(
            f"{directory}: the data stage alone has begun here; `perdure data inspect RECIPE` shows what it has made"
        )
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


def _version(paths: VersionPaths, recipe: Recipe, name: str, runs: bool | None) -> dict[str, Any]:
    directory, steps = paths.directory, num_steps(recipe, recipe.versions[name])
    last = _last_lines(paths.metrics, STEPS)
    line = last[-1] if last else None
    step = line["step"] if line else 0
    age = time.time() - paths.metrics.stat().st_mtime if line else None
    rate = len(last) / sum(1 / each["tokens_per_second"] for each in last) if last else None
    tokens = recipe.training.seq_length * recipe.training.global_batch_size
    if runs is None and rate and age is not None:
        runs = age < max(OLD_SECONDS, OLD_STEPS * tokens / rate)
    if is_finished(directory):
        state = "finished"
    elif step:
        state = ("evaluating" if step == steps else "training") if runs else "interrupted"
    else:
        state = "prepared" if paths.inputs.exists() else "waiting"
    return {
        "name": name,
        "state": state,
        "step": step,
        "steps": steps,
        "loss": line["loss"] if line else None,
        "tokens_per_second": rate if state != "interrupted" else None,
        "eta_seconds": (steps - step) * tokens / rate if rate and state != "interrupted" else None,
        "seconds_since_step": age,
        "checkpoint": newest_step(directory),
        "attempts": len(attempts(directory)),
    }


def _last_lines(file: Path, number: int) -> list[dict]:
    """The last whole lines of a JSONL file, read from its end."""
    if not file.exists():
        return []
    with file.open("rb") as stream:
        begin = max(0, stream.seek(0, 2) - TAIL)
        stream.seek(begin)
        whole = stream.read().split(b"\n")[bool(begin) : -1]
    return json_lines(file, [line + b"\n" for line in whole[-number:]])


def _jobs(directory: Path) -> list[dict[str, str]]:
    file = RunPaths(directory).jobs
    if not file.exists():
        return []
    ids: dict[str, str] = read_json(file)["jobs"]
    states = job_states(list(ids.values()), "--states=all")
    absent = UNKNOWN if states is None else "not in the queue"
    return [{"name": name, "id": job, "state": (states or {}).get(job, absent)} for name, job in ids.items()]


def _running(directory: Path, recipe: Recipe, jobs: list[dict[str, str]]) -> set[str] | None:
    """Versions that may be under way; None if nobody says so but their files."""
    everything = set(recipe.versions)
    if _is_locked(directory):
        return everything
    if not jobs or jobs[0]["state"] == UNKNOWN:
        return None
    found = {job["name"].removeprefix("train-") for job in jobs if job["state"] in RUNNING}
    paths = RunPaths(directory)
    by_hand = {  # scripts can be submitted by hand, too
        name: str(attempt).partition(".")[0]
        for name in everything - found
        for attempt in [entry["attempt"] for entry in attempts(paths.version(name).directory)][-1:]
    }
    states = job_states(list(by_hand.values()), "--states=all") or {} if by_hand else {}
    return found | {name for name, job in by_hand.items() if states.get(job) in RUNNING}


def _is_locked(directory: Path) -> bool:
    """Whether a command of this machine works in the directory (`run.alone`); trying the lock might turn one away."""
    file, locks = RunPaths(directory).lock, Path("/proc/locks")
    return file.exists() and locks.exists() and f":{file.stat().st_ino} " in locks.read_text(encoding="ascii")
