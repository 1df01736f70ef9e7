"""The data stage: for every source clean -> tokenise, with one tokenizer between; finished artefacts are kept.

Nothing heavy is imported before there is work to do, so that `finished_data` serves `perdure check`.
"""

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.formats import format_bytes
from perdure.pipeline.core.manifest import disk_errors, is_finished, refuse_link
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.data import identity
from perdure.pipeline.data.cleaning.drops import drops_lines, heavy_drops, lost_line
from perdure.pipeline.data.context import ShardInputs, StageContext
from perdure.pipeline.data.read.inputs import files_not_read
from perdure.pipeline.data.read.overlap import same_files
from perdure.pipeline.data.source_steps import make_clean, make_shards, make_topics
from perdure.pipeline.data.summaries import source_summary, tokenizer_summary
from perdure.pipeline.data.tokenizer.auto import as_loaded, load_as_exported, model_config
from perdure.pipeline.data.tokenizer.train import build_tokenizer
from perdure.pipeline.recipe import ExtendedTokenizer, HuggingFaceTokenizer, Recipe
from perdure.pipeline.recipe.remembered import asked_once

if TYPE_CHECKING:
    from perdure.pipeline.data.backends.local import Execute

logger = logging.getLogger(__name__)


def run_data(recipe: Recipe) -> dict[str, Path]:
    """Turns every source of a recipe into shards.

    Args:
        recipe: The recipe.

    Returns:
        Each source's directory of shards.

    Raises:
        PerdureError: If an input is missing, a source ends up empty, or the disk is full or not writable.
    """
    out = recipe.directory
    with disk_errors(out), ExitStack() as stack:

        @cache
        def execute() -> "Execute":
            """The executor, started when the first artefact is missing."""
            from perdure.pipeline.data.backends import remote_executor
            from perdure.pipeline.data.backends.local import local

            there = remote_executor(recipe, scoring=False)
            return stack.enter_context(
                there
                or local(
                    recipe.data.workers, any(version.needs_scores for version in recipe.versions.values())
                )
            )

        out.mkdir(parents=True, exist_ok=True)
        _sweep(RunPaths(out).work)
        return _run(recipe, execute)


def _sweep(work: Path) -> None:
    """Removes work directories whose artefact is in place already, left by a killed run (`building`).

    Raises:
        PerdureError: If a symbolic link stands there: what it leads to is not ours to remove.
    """
    refuse_link(work)
    for entry in work.glob("*"):
        refuse_link(entry)
        if not (entry / "artefact").exists():
            shutil.rmtree(entry)


def left_over(work: Path) -> str:
    """The remark about unfinished artefacts of other recipes; not for a sweep, whose runs need different ones."""
    # What later stages make of data, scores or leaks, has more behind the data's own hash; they go on with it.
    entries = [entry for entry in sorted(work.glob("*@*")) if "." not in entry.name.partition("@")[2]]
    if not entries:
        return ""
    named = ", ".join(f"{entry.name} ({format_bytes(_size(entry))})" for entry in entries)
    return (
        f"{work}: left by runs under other recipes that did not end: {named}; remove what nobody goes on with"
    )


def _size(directory: Path) -> int:
    """Size of all files below a directory in bytes; files may disappear meanwhile."""
    size = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(folder, file)).st_size
    return size


@asked_once
def finished_data(recipe: Recipe) -> dict[str, Path | None]:
    """Each source's finished directory of shards, or None.

    Raises:
        PerdureError: If an input is missing.
    """
    out = recipe.directory
    if not any(out.glob("tokenizer@*")):
        return dict.fromkeys(recipe.sources)  # without looking at the inputs, which may be many
    clean = identity.clean_inputs(recipe)
    tokenizer = tokenizer_directory(recipe)
    if not is_finished(tokenizer):
        return dict.fromkeys(recipe.sources)
    facts = read_json(tokenizer / "manifest.json")
    found = {
        name: identity.place(out, f"data/{name}", identity.data_inputs(recipe, name, clean, facts))
        for name in clean
    }
    return {name: path if is_finished(path) else None for name, path in found.items()}


def other_tasks(recipe: Recipe) -> dict[str, int]:
    """Sources that exist cleaned alike, in whole or in part, with another number of tasks: that number.

    Raises:
        PerdureError: If an input is missing.
    """
    out, ours = recipe.directory, recipe.data.tasks
    cleaned, begun = identity.by_source(RunPaths(out).clean), identity.by_source(RunPaths(out).work, "clean.")
    numbers = {name: _numbers_of_tasks(cleaned.get(name, []), begun.get(name, [])) for name in recipe.sources}
    if not any(known - {ours} for known in numbers.values()):
        return {}  # without looking at the inputs, which may be many
    found = {}
    for name, inputs in identity.clean_inputs(recipe).items():
        paths = {
            number: identity.place(out, f"clean/{name}", inputs | {"tasks": number})
            for number in numbers[name] | {ours}
        }
        there = [
            number
            for number, path in paths.items()
            if path.exists() or (RunPaths(out).work / f"clean.{path.name}").exists()
        ]
        if there and ours not in there:
            found[name] = there[0]
    return found


def _numbers_of_tasks(cleaned: list[Path], begun: list[Path]) -> set[int]:
    """Numbers of tasks that cleanings of a source had, by their directories."""
    whole = (path / "manifest.json" for path in cleaned)
    numbers = {read_json(path)["inputs"]["tasks"] for path in whole if path.exists()}
    return numbers | {int(path.read_text()) for directory in begun for path in directory.glob("*/tasks")}


def tokenizer_directory(recipe: Recipe) -> Path:
    """Directory of the recipe's tokenizer, finished or not."""
    return identity.place(
        recipe.directory, "tokenizer", identity.tokenizer_inputs(recipe, identity.clean_inputs(recipe))
    )


def _run(recipe: Recipe, start: Callable[[], "Execute"]) -> dict[str, Path]:
    """Makes what is missing: cleaned documents and topics of all sources, the tokenizer, then subsets and shards."""
    inputs = identity.clean_inputs(recipe)
    reserved = identity.reserved_fraction(recipe)
    context = StageContext(recipe.directory, recipe.data.tasks, start, reserved, recipe.seed)
    for note in same_files(recipe):
        logger.info(note)
    config = model_config(recipe.model)
    tokenizer_inputs = identity.tokenizer_inputs(recipe, inputs)
    place = identity.place(recipe.directory, "tokenizer", tokenizer_inputs)
    if not is_finished(place):
        match recipe.tokenizer:  # what can fail without documents does so before they are cleaned
            case HuggingFaceTokenizer():
                as_loaded(build_tokenizer(context, recipe.tokenizer, place, {}, tokenizer_inputs), config)
            case ExtendedTokenizer():
                load_as_exported(recipe.tokenizer.path, config)
    cleaned: dict[str, Path] = {}
    topics: dict[str, Path | None] = {}
    for name in recipe.sources:
        cleaned[name] = make_clean(recipe, context, name, inputs)
        topics[name] = make_topics(recipe, context, name, inputs, cleaned[name])
    tokenizer = build_tokenizer(context, recipe.tokenizer, place, cleaned, tokenizer_inputs)
    logger.info(tokenizer_summary(recipe.tokenizer, as_loaded(tokenizer, config)))
    exported = cache(lambda: load_as_exported(tokenizer, config))
    found = {}
    for name, source in recipe.sources.items():
        made = ShardInputs(cleaned[name], tokenizer, topics[name])
        found[name] = make_shards(recipe, context, name, inputs, made, exported)
        counts = read_json(found[name] / "manifest.json")["counts"]
        logger.info("; ".join(filter(None, [source_summary(name, counts), files_not_read(source.reader)])))
        for line in drops_lines(name, heavy_drops(counts, cleaned[name] / "dropped")):
            logger.info(line)
        if lost := lost_line(name, counts):
            logger.log(logging.WARNING if lost.startswith("WARNING") else logging.INFO, lost)
    return found
