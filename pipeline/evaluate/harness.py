"""lm-evaluation-harness on a version's export, without the internet: tasks and their texts are files of this machine.

`python -m perdure.pipeline.evaluate.harness MODEL INCLUDE_PATH RESULT special|text TASK...` runs it in a process of its
own, because the libraries below it read as they are imported that there is no internet.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from perdure.pipeline.data.tokenizer import parses_special_tokens
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.integrity import export_of
from perdure.pipeline.manifest import hash_directory, hash_of, is_finished, read_json, write_json
from perdure.pipeline.recipe import Harness, Recipe

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run_harness(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Writes `harness.json` of every finished version that has none of the same tasks.

    Raises:
        PerdureError: If the harness is not installed, or a task cannot be run.
    """
    harness = recipe.evaluation.harness
    if harness is None:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise PerdureError("evaluation.harness: lm-evaluation-harness is missing; install `perdure[harness]`")
    if not harness.include_path.is_dir():
        raise PerdureError(f"evaluation.harness.include_path = {harness.include_path}: no such directory")
    tasks = tasks_hash(harness)
    for name in recipe.versions:
        directory = recipe.directory / "versions" / name
        if not is_finished(directory):
            continue
        weights = read_json(directory / "version.json")["weights_hash"]
        parse = parses_special_tokens(recipe.tokenizer)
        identity = {"tasks": tasks, "weights_hash": weights, "parse_special_tokens": parse}
        path = directory / "harness.json"
        if path.exists() and read_json(path)["identity"] == identity:
            continue
        say(f"version {name}: lm-evaluation-harness, {', '.join(harness.tasks)}")
        found = _results(directory, harness.include_path, harness.tasks, parse)
        write_json(path, {"identity": identity} | found)


def task_names(include_path: Path) -> set[str]:
    """Names of tasks, groups and tags that the YAML files below a directory define, as the harness finds them.

    It is read here, since the harness's own index takes a second to import. Files that cannot be read define nothing.
    """
    found: set[str] = set()
    for path in include_path.glob("**/*.yaml"):
        try:
            fields = _task_file(path, set())
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue
        # A group's `task` is the list of what is in it.
        named = fields.get("group") if "group" in fields and "class" not in fields else fields.get("task")
        tags = fields.get("tag") if "group" not in fields else None
        found |= {
            name for name in (named, *(tags if isinstance(tags, list) else [tags])) if isinstance(name, str)
        }
    return found


class _TaskLoader(yaml.SafeLoader):
    """Reads what tasks write as `!function utils.clean` as nothing."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _task_file(path: Path, seen: set[Path]) -> dict[str, Any]:
    """Fields of a task's file, those of the files that it includes below its own."""
    if (place := path.resolve()) in seen:
        raise ValueError("it includes itself")
    own = yaml.load(path.read_bytes(), _TaskLoader)
    if not isinstance(own, dict):
        raise ValueError("no mapping")
    includes = own.pop("include", [])
    below: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        below |= _task_file(place.parent / str(name), seen | {place})
    return below | own


def tasks_hash(harness: Harness) -> str:
    """What identifies tasks and their texts: their files, but for what Python and editors leave beside them."""
    return hash_of([hash_directory(harness.include_path, hidden=False), harness.tasks])[:16]


def harness_results(recipe: Recipe) -> dict[str, Any] | None:
    """Results of the tasks that the recipe asks for, by version; where the tasks are gone, those of the last ones."""
    harness = recipe.evaluation.harness
    if harness is None:
        return None
    asked = tasks_hash(harness) if harness.include_path.is_dir() else None
    paths = {name: recipe.directory / "versions" / name / "harness.json" for name in recipe.versions}
    found = {name: read_json(path) for name, path in paths.items() if path.exists()}
    return {
        name: record["tasks"]
        for name, record in found.items()
        if asked in (None, record["identity"]["tasks"])
    } or None


def _results(
    directory: Path, include_path: Path, tasks: list[str], parse_special_tokens: bool
) -> dict[str, Any]:
    result = directory / "harness.tmp.json"
    command = [
        sys.executable,
        "-m",
        "perdure.pipeline.evaluate.harness",
        export_of(directory),
        include_path,
        result,
        "special" if parse_special_tokens else "text",
    ]
    done = subprocess.run(
        [*map(str, command), *tasks], env=os.environ | OFFLINE, capture_output=True, text=True
    )
    if done.returncode:
        log = directory / "harness.log"
        log.write_text(done.stdout + done.stderr)
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise PerdureError(f"evaluation.harness: {', '.join(tasks)}: {reason} (all of it: {log})")
    found = read_json(result)
    result.unlink()
    return found


def evaluate_export(
    model: Path, include_path: Path, tasks: list[str], parse_special_tokens: bool
) -> dict[str, Any]:
    """Runs tasks on a Hugging Face model.

    Args:
        model: Its directory.
        include_path: Directory of the tasks.
        tasks: Their names.
        parse_special_tokens: Whether the spelling of a special token in a text becomes that token, as in training.

    Returns:
        `versions` (of the harness and of each task) and `tasks`: task -> metric -> value, `<metric>_stderr` where there
        is one; a metric with another filter than `none` is called `<metric>,<filter>`.
    """
    import lm_eval
    import torch
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, split_special_tokens=not parse_special_tokens)
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "tokenizer": tokenizer, "dtype": "float32"},
        tasks=tasks,
        task_manager=TaskManager(include_path=str(include_path), include_defaults=False),
        batch_size=1,
        device="cuda" if torch.cuda.is_available() else "cpu",
        bootstrap_iters=1000,
        log_samples=False,
    )
    return {
        "versions": {"lm_eval": lm_eval.__version__} | dict(found["versions"]),
        "tasks": {task: _metrics(result) for task, result in found["results"].items()},
    }


def _metrics(result: dict[str, Any]) -> dict[str, float | None]:
    numbers = {
        key.removesuffix(",none"): value
        for key, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {key: float(value) for key, value in numbers.items() if key not in ("sample_len",)}


if __name__ == "__main__":
    model, include_path, result, parse, *tasks = sys.argv[1:]
    found = evaluate_export(Path(model), Path(include_path), tasks, parse == "special")
    write_json(Path(result), found)
