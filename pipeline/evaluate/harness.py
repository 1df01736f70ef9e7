"""Runs lm-evaluation-harness offline on the initial model and on exports, with tasks in local files.

`python -m perdure.pipeline.evaluate.harness MODEL INCLUDE_PATH RESULT special|text TASK...` runs it in a process of its
own, because the libraries below it read as they are imported that there is no internet.
"""

import importlib.util
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_atomic, write_json
from perdure.pipeline.core.hashes import hash_directory, hash_of
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import read_inputs, read_record
from perdure.pipeline.data.read.files import MOST_OTHERS
from perdure.pipeline.data.tokenizer.directory import COPIED
from perdure.pipeline.data.tokenizer.train import parses_special_tokens
from perdure.pipeline.model.exports import export_of, initial_weights_hash
from perdure.pipeline.model.vocabulary import extension_between
from perdure.pipeline.plan.recorded import recorded_recipe
from perdure.pipeline.recipe import Harness, HuggingFaceModel, Recipe

logger = logging.getLogger(__name__)

MOST_BYTES = 32 << 20
"""Most bytes of YAML that are read for names of tasks; the harness's own tasks have a quarter of it."""
NAMING = re.compile(rb"task|group|include")
"""Matches a file that may define a task."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run_harness(recipe: Recipe) -> None:
    """Runs the tasks on the initial model and on finished versions, where there are no results of these tasks yet.

    They are written as `harness/initial@<hash8>.json` and each version's `harness.json`. A random initial model has none.

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
    words = f"lm-evaluation-harness, {', '.join(harness.tasks)}"
    for name, (path, model) in initial_records(recipe).items():
        identity = {"tasks": tasks} | model
        if _is_there(path, identity):
            continue
        if (reason := _changed(recipe, name, model["weights_hash"])) is not None:
            logger.info(f"initial model: no {words}: {reason}")
            continue
        logger.info(f"initial model: {words}")
        with TemporaryDirectory() as folder:
            link_as_export(recipe, Path(folder))
            _run(path, identity, Path(folder), harness)
    for name in recipe.versions:
        directory = recipe.paths.version(name).directory
        if not is_finished(directory):
            continue
        weights = read_record(VersionPaths(directory))["weights_hash"]
        parse = parses_special_tokens((recorded_recipe(directory) or recipe).tokenizer)
        identity = {"tasks": tasks, "weights_hash": weights, "parse_special_tokens": parse}
        path = VersionPaths(directory).harness
        if not _is_there(path, identity):
            logger.info(f"version {name}: {words}")
            _run(path, identity, export_of(directory), harness)


def initial_records(recipe: Recipe) -> dict[str, tuple[Path, dict[str, Any]]]:
    """By finished version that starts from an initial model, the path of that model's results and the model's identity.

    All of it is from the versions' own records, so that a report needs no model. A random start has none, nor has
    a recipe that does not ask for the harness.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    if recipe.evaluation.harness is None:
        return found
    for name, version in recipe.versions.items():
        directory = recipe.paths.version(name).directory
        if version.start.type != "init" or not is_finished(directory):
            continue
        made_from = read_inputs(VersionPaths(directory))["identity"]
        if (weights := made_from.get("initial_weights")) is None:
            continue
        model = {
            "weights_hash": weights,
            "shape": hash_of(made_from["model"].get("shape"))[:16],
            "tokenizer_hash": made_from["tokenizer_hash"],
            "parse_special_tokens": parses_special_tokens((recorded_recipe(directory) or recipe).tokenizer),
        }
        found[name] = (recipe.paths.harness / f"initial@{hash_of(model)[:8]}.json", model)
    return found


def _is_there(path: Path, identity: dict[str, Any]) -> bool:
    return path.exists() and read_json(path)["identity"] == identity


def _changed(recipe: Recipe, name: str, weights: str) -> str | None:
    """Why the recipe's model is not the one that a version started from; None if it is."""
    if not isinstance(recipe.model, HuggingFaceModel):
        return f"version {name} started from a model that the recipe does not name any more"
    try:
        found = initial_weights_hash(recipe, recipe.model.path)
    except PerdureError as error:
        return str(error)
    if found != weights:
        return f"{recipe.model.path}: not the weights that version {name} started from"
    return None


def link_as_export(recipe: Recipe, folder: Path) -> None:
    """Links the initial model's files and the run's tokenizer into a folder, as an export has both.

    Where the run's tokenizer extends the model's, which has no rows for the new tokens, the model's own goes along.
    """
    from perdure.pipeline.data.stage import tokenizer_directory

    assert isinstance(recipe.model, HuggingFaceModel)
    model, tokenizer = recipe.model.path, tokenizer_directory(recipe)
    files = {file.name: file for file in model.iterdir() if file.is_file() and not file.name.startswith(".")}
    if extension_between(model, tokenizer) is None:
        files = {name: file for name, file in files.items() if name not in COPIED}
        files |= {name: file for name in COPIED if (file := tokenizer / name).is_file()}
    for name, file in files.items():
        (folder / name).symlink_to(file.resolve())


def task_names(include_path: Path) -> set[str]:
    """Names of tasks, groups and tags that the harness finds in the YAML files below a directory.

    It is read here, since the harness's own index takes a second to import. Files that cannot be read define nothing.

    Raises:
        PerdureError: If there is more below the directory than any tasks are.
    """
    found: set[str] = set()
    for path in _task_files(include_path):
        try:
            if not NAMING.search(path.read_bytes()):
                continue
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


def _task_files(include_path: Path) -> Iterator[Path]:
    """YAML files below a directory that may define tasks."""
    entries = size = 0
    for directory, folders, files in os.walk(include_path):
        entries += len(folders) + len(files)
        paths = [Path(directory, name) for name in files if name.endswith(".yaml")]
        paths = [path for path in paths if path.is_file()]
        size += sum(path.stat().st_size for path in paths)
        if entries > MOST_OTHERS or size > MOST_BYTES:
            limits = (
                f"more than {MOST_OTHERS:,} files and directories, or {MOST_BYTES >> 20} MiB of YAML, in it"
            )
            raise PerdureError(f"{include_path}: {limits}; name the directory of the tasks")
        yield from paths


class _TaskLoader(yaml.SafeLoader):
    """YAML loader that reads tags such as `!function utils.clean` as None."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _task_file(path: Path, seen: set[Path]) -> dict[str, Any]:
    """Fields of a task's file, merged over those of the files that it includes."""
    if (place := path.resolve()) in seen:
        raise ValueError("it includes itself")
    if not place.is_file():
        raise ValueError("no file")
    own = yaml.load(path.read_bytes(), _TaskLoader)
    if not isinstance(own, dict):
        raise ValueError("no mapping")
    includes = own.pop("include", [])
    below: dict[str, Any] = {}
    for name in includes if isinstance(includes, list) else [includes]:
        below |= _task_file(place.parent / str(name), seen | {place})
    return below | own


def tasks_hash(harness: Harness) -> str:
    """Hash of the tasks and their texts, without hidden files and caches."""
    return hash_of([hash_directory(harness.include_path, hidden=False), harness.tasks])[:16]


def _run(path: Path, identity: dict[str, Any], model: Path, harness: Harness) -> None:
    """Runs the tasks on a model and writes their results with an identity."""
    parse = "special" if identity["parse_special_tokens"] else "text"
    found = run_tasks(model, harness, parse, path.with_suffix(".log"))
    write_json(path, {"identity": identity} | found)


def run_tasks(model: Path, harness: Harness, parse: str, log: Path) -> dict[str, Any]:
    """Runs the tasks on a model in a process of its own.

    Args:
        model: A Hugging Face directory.
        harness: The tasks.
        parse: `special` or `text`: what the spelling of a special token in a text becomes.
        log: Where the process's output goes if it fails.

    Returns:
        `versions` and `tasks`, see `evaluate_export`.

    Raises:
        PerdureError: If the process fails.
    """
    with TemporaryDirectory() as folder:
        result = Path(folder) / "harness.json"
        command = [sys.executable, "-m", "perdure.pipeline.evaluate.harness"]
        command += [str(model), str(harness.include_path), str(result), parse, *harness.tasks]
        done = subprocess.run(command, env=os.environ | OFFLINE, capture_output=True, text=True)
        if done.returncode == 0:
            return read_json(result)
    write_atomic(log, done.stdout + done.stderr)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = lines[-1] if lines else f"exit status {done.returncode}"
    raise PerdureError(f"evaluation.harness: {', '.join(harness.tasks)}: {reason} (all of it: {log})")


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
