"""The data stage: for every source clean -> tokenise, with one tokenizer between; finished artefacts are kept.

Nothing heavy is imported before there is work to do, so that `finished_data` serves `perdure check`.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.formats import format_bytes
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.integrity import is_whole, require_whole
from perdure.pipeline.core.manifest import disk_errors, is_finished, refuse_link
from perdure.pipeline.core.paths import RunPaths
from perdure.pipeline.data import identity
from perdure.pipeline.data.cleaning.drops import drops_lines, heavy_drops, lost_line
from perdure.pipeline.data.read.inputs import files_not_read
from perdure.pipeline.data.read.overlap import same_files
from perdure.pipeline.data.tokenizer.auto import as_loaded, load_as_exported, model_config
from perdure.pipeline.data.tokenizer.train import build_tokenizer
from perdure.pipeline.recipe import ExtendedTokenizer, HuggingFaceTokenizer, Recipe, typed_command
from perdure.pipeline.recipe.remembered import asked_once

if TYPE_CHECKING:
    from perdure.pipeline.data.backends.local import Execute


def run_data(recipe: Recipe, report: Callable[[str], None] = print) -> dict[str, Path]:
    """Turns every source of a recipe into shards.

    Args:
        recipe: The recipe.
        report: Receives lines for the console: what begins, and a summary of each source.

    Returns:
        Each source's directory of shards.

    Raises:
        PerdureError: If an input is missing, a source ends up empty, or the disk is full or not writable.
    """
    out = recipe.directory
    with disk_errors(out), ExitStack() as stack:

        @cache
        def execute() -> "Execute":
            """What runs tasks, started when the first artefact is missing."""
            from perdure.pipeline.data.backends import elsewhere
            from perdure.pipeline.data.backends.local import local

            there = elsewhere(recipe, scoring=False, say=report)
            return stack.enter_context(
                there
                or local(
                    recipe.data.workers, any(version.needs_scores for version in recipe.versions.values())
                )
            )

        out.mkdir(parents=True, exist_ok=True)
        _sweep(RunPaths(out).work)
        return _run(recipe, execute, report)


def _sweep(work: Path) -> None:
    """Removes what is no use any more: of a run that was killed when its artefact was in place already (`building`).

    Raises:
        PerdureError: If a symbolic link stands there: what it leads to is not ours to remove.
    """
    refuse_link(work)
    for entry in work.glob("*"):
        refuse_link(entry)
        if not (entry / "artefact").exists():
            shutil.rmtree(entry)


def left_over(work: Path) -> str:
    """What to say of half-made artefacts once a recipe's own are whole; not in a sweep, whose runs need different ones."""
    # What later stages make of data, scores or leaks, has more behind the data's own hash; they go on with it.
    entries = [entry for entry in sorted(work.glob("*@*")) if "." not in entry.name.partition("@")[2]]
    if not entries:
        return ""
    named = ", ".join(f"{entry.name} ({format_bytes(_size(entry))})" for entry in entries)
    return (
        f"{work}: left by runs under other recipes that did not end: {named}; remove what nobody goes on with"
    )


def _size(directory: Path) -> int:
    """Bytes of all files below a directory, of which some may go while they are counted."""
    size = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(folder, file)).st_size
    return size


@asked_once
def finished_data(recipe: Recipe) -> dict[str, Path | None]:
    """Finds what is finished: each source's directory of shards, or None.

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
    """Sources that stand here cleaned alike, whole or in part, but split into another number of tasks: that number.

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
    """Where the recipe's tokenizer stands, finished or not."""
    return identity.place(
        recipe.directory, "tokenizer", identity.tokenizer_inputs(recipe, identity.clean_inputs(recipe))
    )


def _run(recipe: Recipe, execute: Callable[[], "Execute"], report: Callable[[str], None]) -> dict[str, Path]:
    out, tasks, clean = recipe.directory, recipe.data.tasks, identity.clean_inputs(recipe)
    tokenizer = identity.tokenizer_inputs(recipe, clean)
    command = typed_command()
    for note in same_files(recipe):
        report(note)
    cleaned = {name: identity.place(out, f"clean/{name}", inputs) for name, inputs in clean.items()}
    labelled: dict[str, Path] = {}
    config = model_config(recipe.model)
    place = identity.place(out, "tokenizer", tokenizer)
    given = identity.reserved_fraction(recipe), tokenizer, tasks, execute
    if not is_finished(place):
        match recipe.tokenizer:  # what can fail without documents does so before they are cleaned
            case HuggingFaceTokenizer():
                as_loaded(build_tokenizer(recipe.tokenizer, place, {}, *given), config)
            case ExtendedTokenizer():
                load_as_exported(recipe.tokenizer.path, config)
    for name, source in recipe.sources.items():
        if not is_finished(cleaned[name]):
            from perdure.pipeline.data.cleaning.clean import clean_source

            facts = {"source": name, "hash": hash_of(clean[name]), "inputs": clean[name], "command": command}
            facts["reading"] = identity.READING
            report(f"cleaning {name}")
            clean_source(out, cleaned[name], name, source, tasks, execute(), facts)
        topics = recipe.sources[name].topics
        if topics is not None:
            inputs = identity.part_inputs(recipe, name, "topics", clean)
            labelled[name] = identity.place(out, f"topics/{name}", inputs)
            if not is_finished(labelled[name]):
                from perdure.pipeline.data.topics import label_topics

                report(f"labelling {name} with topics")
                facts = {"source": name, "inputs": inputs, "command": command, "words": identity.WORDS}
                require_whole(cleaned[name])
                label_topics(out, labelled[name], name, topics, cleaned[name], tasks, execute(), facts)
            report(_topics_summary(name, read_json(labelled[name] / "manifest.json")))
    directory = build_tokenizer(recipe.tokenizer, place, cleaned, *given)
    facts = as_loaded(directory, config)
    exported = cache(lambda: load_as_exported(directory, config))
    learnt = ""
    if (sample := facts["sample"]) is not None:
        learnt = f", learnt from {sample['words']:,} of {sample['of_words']:,} words (tokenizer.sample_words)"
    report(
        f"tokenizer: {facts['vocab_size']:,} tokens{_asked(recipe, facts)}, documents end in {facts['eos_token']!r}{learnt}"
    )
    found = {}
    for name in recipe.sources:
        inputs = identity.data_inputs(recipe, name, clean, facts)
        final = found[name] = identity.place(out, f"data/{name}", inputs)
        if not is_whole(final):
            from perdure.pipeline.data.shard import write_shards

            require_whole(cleaned[name])
            if name in labelled:
                require_whole(labelled[name])
            subset = None
            if (chosen := recipe.sources[name].subset) is not None:
                from perdure.pipeline.data.subset import choose_subset

                subset_inputs = identity.subset_inputs(recipe, name, clean, facts)
                subset = identity.place(out, f"subset/{name}", subset_inputs)
                if not is_whole(subset):
                    report(f"choosing a subset of {name}")
                    begun = {"source": name, "inputs": subset_inputs, "command": command}
                    where = cleaned[name], directory
                    shared = identity.reserved_fraction(recipe), recipe.seed, tasks, execute(), begun
                    choose_subset(out, subset, name, chosen, *where, *shared)
            heldout = recipe.sources[name].heldout_fraction
            manifest: dict = {
                "source": name,
                "data_hash": hash_of(inputs),
                "tokenizer_hash": facts["tokenizer_hash"],
                "eos_id": facts["eos_id"],
                "vocab_size": facts["vocab_size"],
                "tasks": tasks,
                "heldout_fraction": heldout,
                "inputs": clean[name],
                "clean": cleaned[name].name,
                "reading": read_json(cleaned[name] / "manifest.json").get("reading", 1),
                "topics": labelled[name].name if name in labelled else None,
                "subset": subset.name if subset else None,
                "counts": read_json(cleaned[name] / "manifest.json")["counts"],
                "command": command,
            }
            report(f"tokenising {name}")
            labels = labelled.get(name), subset
            fractions = heldout, identity.reserved_fraction(recipe)
            how = tasks, execute(), exported
            write_shards(out, final, name, cleaned[name], directory, *labels, *fractions, *how, manifest)
        counts = read_json(final / "manifest.json")["counts"]
        report("; ".join(filter(None, [_summary(name, counts), files_not_read(recipe.sources[name].reader)])))
        for line in drops_lines(name, heavy_drops(counts, cleaned[name] / "dropped")):
            report(line)
        if lost := lost_line(name, counts):
            report(lost)
    return found


def _asked(recipe: Recipe, facts: dict) -> str:
    """What to add if a trained tokenizer is smaller than asked for."""
    tokenizer = recipe.tokenizer
    if tokenizer.type != "train" or facts["vocab_size"] == tokenizer.vocab_size:
        return ""
    return f" (vocab_size = {tokenizer.vocab_size:,}: the text has no more pairs to merge)"


def _topics_summary(name: str, manifest: dict) -> str:
    """Topics of a source with their documents, what a classifier is worth, and the words of clusters."""
    words = manifest.get("top_words", {})
    found = [
        f"{topic} {count:,}" + (f" ({', '.join(words[topic])})" if topic in words else "")
        for topic, count in manifest["topics"].items()
    ]
    right = f", right on {manifest['accuracy']:.1%} of labelled texts" if "accuracy" in manifest else ""
    return f"{name}: {len(found)} topics{right}: " + ", ".join(found)


def _summary(name: str, counts: dict) -> str:
    documents, train, heldout = counts["documents"], counts["train"], counts["heldout"]
    by_count = sorted(documents["dropped"].items(), key=lambda item: -item[1])
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in by_count)
    return (
        f"{name}: {documents['in']:,} documents in, {documents['out']:,} out (dropped: {dropped or 'none'}); "
        f"{train['tokens']:,} tokens to train on, {heldout['tokens']:,} held out"
        + (
            f"; {inside:,} separators stand inside documents"
            if (inside := counts["separators_inside"])
            else ""
        )
    ) + "".join(
        f"; of {file['file']}, {file['too_short']:,} of {file['strings']:,} strings were too short to be looked for"
        for step in counts["steps"]
        for file in step.get("evaluation", [])
        if file["too_short"]
    )
