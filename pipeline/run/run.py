"""`perdure run`: every stage of a recipe in order, finished ones skipped."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from perdure.pipeline.checks.finished import against_data
from perdure.pipeline.core.errors import PerdureError, RecipeError
from perdure.pipeline.core.extras import require
from perdure.pipeline.core.files import read_json, write_atomic, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.inputs_once import forget_inputs, inputs_read_once
from perdure.pipeline.core.locks import lock, open_lock
from perdure.pipeline.core.logs import set_version, silenced
from perdure.pipeline.core.manifest import disk_errors, is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import VersionInputs, read_inputs
from perdure.pipeline.data.stage import left_over, run_data, tokenizer_directory
from perdure.pipeline.evaluate.contamination import look_for_leaks
from perdure.pipeline.evaluate.harness import run_harness
from perdure.pipeline.evaluate.record import evaluation_directory, later_directory, record_data
from perdure.pipeline.evaluate.report.report import write_report
from perdure.pipeline.model.choices import require_kernels
from perdure.pipeline.model.exports import export_of
from perdure.pipeline.model.layout import layout_of, with_layout
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.history import history
from perdure.pipeline.plan.merged import origin_words
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.parts import describe
from perdure.pipeline.plan.plan import Plan
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.withdrawn import without_words
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.run.forgetting import measure_forgetting
from perdure.pipeline.run.scoring import score_what_is_read
from perdure.pipeline.run.version_inputs import refuse_edited, refuse_other, version_inputs
from perdure.pipeline.train import ranks

logger = logging.getLogger(__name__)


def run(recipe: Recipe, recipe_path: Path) -> None:
    """Runs all stages: data, every version (scores, plan, training, evaluation, export), and the report."""
    if not all(is_finished(recipe.paths.version(name).directory) for name in recipe.versions):
        require("torch", "megatron")  # before the data stage, which may take long
        require_kernels(recipe)
    with alone(recipe):
        refuse_edited(recipe, recipe.versions)
        data = run_data_stage(recipe, recipe_path)
        _report_left_over(recipe)
        make_versions(recipe, data)
        write_report(recipe)


def make_data(recipe: Recipe) -> None:
    """Runs the data stage alone."""
    with alone(recipe):
        run_data(recipe)
        _report_left_over(recipe)


def _report_left_over(recipe: Recipe) -> None:
    if left := left_over(recipe.paths.work):
        logger.info(left)


def make_versions(recipe: Recipe, data: dict[str, Path]) -> None:
    """Makes and measures every version in order from finished data; finished work is skipped."""
    for name in recipe.versions:
        make_version(recipe, name, data)
    _look_beyond(recipe, data)


def prepare(recipe: Recipe, recipe_path: Path, version: str) -> None:
    """Prepares one version's scores, plan and inputs, so that its ranks can be started anywhere."""
    with alone(recipe):
        directory, _ = prepare_version(recipe, version, run_data_stage(recipe, recipe_path))
        if directory == recipe.paths.version(version).directory:
            logger.info(f"{directory} is ready for {layout_of(recipe).world_size} ranks")


def train(recipe: Recipe, recipe_path: Path, version: str) -> None:
    """Makes one version, and the data if it is missing; its parent and its models must be finished."""
    if not is_finished(recipe.paths.version(version).directory):
        require_kernels(recipe)
    with alone(recipe):
        make_version(recipe, version, run_data_stage(recipe, recipe_path))


def evaluate(recipe: Recipe, recipe_path: Path, version: str | None, ranks: int | None = None) -> None:
    """Measures finished versions, all or one, on the recipe's domains where that is still to do; then the report.

    With `ranks`, it starts so many at most: the layout decides nothing that is measured.
    """
    fitted = recipe
    if ranks is not None:
        fitted = with_layout(recipe, layout_of(recipe).within(ranks))
    names = [name for name in recipe.versions if is_finished(recipe.paths.version(name).directory)]
    if version is not None and version not in names:
        raise PerdureError(
            f"version {version} is not finished; run `perdure train {recipe_path} --version {version}` first"
        )
    if not names:
        raise PerdureError(
            f"{recipe.directory}: no version is finished yet; `perdure run {recipe_path}` makes them"
        )
    with alone(recipe):
        data = run_data_stage(recipe, recipe_path)
        for name in [version] if version else names:
            make_version(fitted, name, data, documents=True)
        _look_beyond(recipe, data)
        write_report(recipe)


def _look_beyond(recipe: Recipe, data: dict[str, Path]) -> None:
    """Measures leaks between probes and training text, tasks of lm-evaluation-harness, and what was to be forgotten.

    It may take long, or fail, so that a report stands before.
    """
    set_version(None)
    with silenced():
        write_report(recipe)
    with disk_errors(recipe.directory):
        look_for_leaks(recipe, data, tokenizer_directory(recipe))
        run_harness(recipe)
        measure_forgetting(recipe, data)


@contextmanager
def alone(recipe: Recipe) -> Iterator[None]:
    """Context that keeps other commands out of a run's directory; its lock ends with the process.

    A job of a cluster waits for its turn: if it failed, its whole chain would be lost with its place in the queue.
    """
    with disk_errors(recipe.directory):
        recipe.directory.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(open_lock(recipe.paths.lock), "w")
    with file:
        if "SLURM_JOB_ID" in os.environ:
            if _wait_for(file.fileno(), recipe.directory, "another perdure command is working here"):
                forget_inputs()
        elif not lock(file.fileno(), recipe.directory):
            raise PerdureError(
                f"{recipe.directory}: another perdure command is working here; wait for it or choose another --out"
            )
        with inputs_read_once():
            yield


def run_data_stage(recipe: Recipe, recipe_path: Path) -> dict[str, Path]:
    """Runs the data stage, then the checks that need finished data, before any version trains."""
    with disk_errors(recipe.directory):
        data = run_data(recipe)
    if found := list(against_data(recipe)):
        raise RecipeError(str(recipe_path), found)
    return data


def make_version(recipe: Recipe, name: str, data: dict[str, Path], documents: bool = False) -> None:
    """Makes all of one version: scores, plan, training, evaluation and export; or measures it again if it is finished.

    With `documents`, one whose evaluation has no sums by document is measured again as well.
    """
    directory, inputs = prepare_version(recipe, name, data, documents)
    if directory == recipe.paths.version(name).directory:
        ranks.start(directory, layout_of(recipe).world_size)
    elif directory:
        with disk_errors(directory):
            directory.mkdir(exist_ok=True)
            with os.fdopen(open_lock(VersionPaths(directory).lock), "w") as file:
                _wait_for(file.fileno(), directory, "another run of a sweep measures the same")
                if not is_finished(directory):
                    _write_inputs(VersionPaths(directory), recipe, inputs)
                    ranks.start(directory, layout_of(recipe).world_size, "evaluate")


def _wait_for(file: int, path: Path, who: str) -> bool:
    """Takes a lock, waiting for it if need be; returns whether it had to wait."""
    if lock(file, path):
        return False
    logger.info(f"{path}: {who}; waiting for it")
    while not lock(file, path):
        time.sleep(1)
    return True


def prepare_version(
    recipe: Recipe, name: str, data: dict[str, Path], documents: bool = False
) -> tuple[Path | None, VersionInputs]:
    """Prepares all that a version's ranks read.

    With `documents`, a finished version that has no sums by document is measured again.

    Returns:
        Where they are to work: the version's directory to train it, or that of an evaluation to make; None if there is nothing
        to do. And their inputs, which stand there to train, but not yet to evaluate: only who has the lock writes those.
    """
    set_version(name)
    paths = recipe.paths.version(name)
    directory = paths.directory
    with disk_errors(directory):
        refuse_edited(recipe, [name])
        ancestors = [] if recipe.versions[name].is_computed else history(recipe, name)
        inputs = version_inputs(recipe, name, data, ancestors)
        if paths.inputs.exists():
            refuse_other(recipe, name, inputs["identity"])
            found = read_inputs(paths)
            # The first command made the version; later ones go on.
            inputs["command"] = found.get("command")
            inputs["identity"], inputs["scores"] = found["identity"], found["scores"]
        record_data(recipe, data)
        if is_finished(directory):
            export_of(directory)
            now = inputs["measured"]
            place = evaluation_directory(directory, now)
            measured = VersionPaths(place)
            if measured.evaluation.exists() and (measured.documents.exists() or not documents):
                logger.info(f"version {name}: finished, skipped")
                return None, inputs
            before, reason = found["measured"], "documents were not kept apart yet"
            if before != now:
                same = all(before.get(key) == now.get(key) for key in ("max_tokens", "data", "sampled"))
                reason = "other probes" if same else "other held-out documents"
            logger.info(f"version {name}: finished; {reason}, so it is measured again")
            return later_directory(directory, now), inputs
        logger.info(f"version {name}")
        if recipe.versions[name].is_computed:
            logger.info(f"{origin_words(recipe.versions[name])}; no training")
            _write_inputs(paths, recipe, inputs)
            return directory, inputs
        ranked = {source: Path(path) for source, path in inputs["perplexity_scores"].items()}
        plan = build_plan(paths.plan, recipe, name, data, ranked, ancestors)
        orders = ", ".join(f"{key} {_order_words(entry)}" for key, entry in plan.sources.items())
        logger.info(f"plan: {plan.num_samples:,} samples of {plan.seq_length} tokens; {orders}")
        for line in _plan_lines(plan, data):
            logger.info(line)
        scores = score_what_is_read(recipe, name, plan, list(inputs["scores"]), data)
        inputs["scores"] = {source: str(path) for source, path in scores.items()}
        _write_inputs(paths, recipe, inputs)
    return directory, inputs


def _write_inputs(paths: VersionPaths, recipe: Recipe, inputs: VersionInputs) -> None:
    content = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    write_atomic(paths.recipe, content)
    write_json(paths.inputs, inputs | {"recipe": hash_file(paths.recipe)})


def _plan_lines(plan: Plan, data: dict[str, Path]) -> list[str]:
    """Lines on what a plan takes of sources that it uses in part, or drops, and on the order of its domains."""
    lines = []
    for key, entry in plan.sources.items():
        if entry.get("part") and not is_replayed(key):
            part = data[source_of(entry["source"])] / "parts" / entry["part"]
            lines.append(describe(entry["source"], read_json(part / "manifest.json")))
        if entry.get("dropped_documents") and entry["pool"] is None:
            lines.append(
                f"{key}: {entry['dropped_documents']:,} documents of {entry['dropped_tokens']:,} tokens are longer than a "
                f"sample and dropped; {entry['documents']:,} of {entry['tokens']:,} tokens are left"
            )
    if phases := [phase for phase in plan.description["phases"] if phase["reason"] == "domain"]:
        names = [
            next(iter(phase["counts"]))
            + (f" (divergence {phase['divergence']:.3f})" if phase.get("divergence") else "")
            for phase in phases
        ]
        lines.append(f"one domain after another: {', '.join(names)}")
    return lines


def _order_words(entry: dict) -> str:
    start = f" from sample {entry['start']:,} on" if entry["start"] else ""
    return f"{entry['order']}{start}{without_words(entry.get('withdrawn'))}"
