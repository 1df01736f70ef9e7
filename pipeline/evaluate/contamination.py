"""Finds evaluation texts in the training shards by shared n-grams of words (Brown et al. 2020, appendix C).

Held-out documents are in no training shard by their hash, but near duplicates of them may be; probes may stand anywhere.
What is looked at is what was trained on: the shards' own tokens, decoded.
"""

import logging
from collections import Counter, defaultdict
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyarrow import parquet

from perdure.pipeline.core.extras import is_installed
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.formats import format_tokens
from perdure.pipeline.core.hashes import hash_file, hash_of
from perdure.pipeline.core.records import MeasuredOn
from perdure.pipeline.evaluate.evaluation_texts import EvaluationText, evaluation_texts
from perdure.pipeline.evaluate.probes import probe_hashes
from perdure.pipeline.evaluate.record import measured_on
from perdure.pipeline.plan.domains import measured_domains, source_of
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.recipe import Recipe

if TYPE_CHECKING:
    from perdure.pipeline.data.backends.local import Execute
    from perdure.pipeline.data.leaks import Grams, Place, Places

logger = logging.getLogger(__name__)

FOUND = 20
"""Most held-out documents that the report names."""
BY_AMOUNT = "by_amount"
"""Key of `contamination.json`: whether a text that was looked for has words that version 0.1 compared otherwise."""
HANDED_ON = 5_000_000
"""Fewest training tokens of a source that the data stage's executor searches; fewer take seconds."""


def look_for_leaks(recipe: Recipe, data: dict[str, Path], tokenizer: Path) -> None:
    """Looks for evaluation texts in training data and writes `<out>/contamination.json`, unless it is up to date.

    Args:
        recipe: What to look for.
        data: Finished data directory per source.
        tokenizer: The tokenizer's directory.

    Raises:
        PerdureError: If a probe file or a shard is missing or broken.
    """
    settings = recipe.evaluation.contamination
    if settings is None:
        return
    path = recipe.paths.contamination
    identity = _identity(recipe, data)
    known = read_json(path) if path.exists() else None
    if known and _as_now(recipe, known["identity"]) != identity:
        known = None
    if known and BY_AMOUNT in known:
        return
    if not is_installed("datatrove"):
        logger.info(
            "leaks: not looked for without datatrove; `perdure eval` does where `perdure[data]` is installed"
        )
        return
    from perdure.pipeline.data import ngrams  # imports datatrove

    texts = list(evaluation_texts(recipe, data, tokenizer, settings.n_grams))
    by_amount = any(text.by_amount for text in texts)
    if known and not by_amount:  # of version 0.1, which would find the same today
        write_json(path, known | {BY_AMOUNT: False})
        return
    searched = _search(recipe, data, tokenizer, _index(texts))
    report: dict[str, Any] = {"n_grams": settings.n_grams, "min_words": ngrams.MIN_WORDS}
    for part in ("probes", "heldout"):
        groups = dict.fromkeys(text.group for text in texts if text.part == part)
        report[part] = {
            group: _group([p for p in texts if (p.part, p.group) == (part, group)], searched, data)
            for group in groups
        }
    write_json(path, {"identity": identity, BY_AMOUNT: by_amount} | report)
    if lines := contamination_lines(report):
        logger.info("\n".join(lines))


def contamination(recipe: Recipe, on: MeasuredOn) -> dict | None:
    """The recorded contamination, see docs/evaluation.md; None if there is none for these texts and settings.

    Args:
        recipe: The run.
        on: What it measures on, see `evaluate/record.py`.
    """
    path, settings = recipe.paths.contamination, recipe.evaluation.contamination
    if settings is None or not path.exists():
        return None
    found = read_json(path)
    found.pop(BY_AMOUNT, None)
    identity = _as_now(recipe, found.pop("identity"))
    now = settings.n_grams, on["max_tokens"], measured_domains(recipe), on.get("sampled")
    if now != tuple(identity[key] for key in ("n_grams", "max_tokens", "domains", "sampled")):
        return None
    # A file that is gone was asked about as it was.
    probes = {path.name: hash_file(path) for path in recipe.evaluation.probes if path.is_file()}
    names = {path.name for path in recipe.evaluation.probes}
    return (
        found
        if identity["probes"].keys() == names and identity["probes"] | probes == identity["probes"]
        else None
    )


def contamination_lines(report: dict) -> list[str]:
    """A line for each probe file or domain with contamination."""
    lines = []
    for part, noun in (("probes", "items"), ("heldout", "held-out documents")):
        for group, entry in report[part].items():
            if entry["leaked"]:
                first = entry["found"][0]
                lines.append(
                    f"contamination: {entry['leaked']} of {entry['items']} {noun} of {group} share {report['n_grams']} "
                    f"words with training data; first {first['item']} in {first['source']} ({first['document']})"
                )
    return lines


def _identity(recipe: Recipe, data: dict[str, Path]) -> dict:
    """What the result depends on: texts, data and settings."""
    assert recipe.evaluation.contamination is not None
    on = measured_on(recipe, data)
    return {
        "n_grams": recipe.evaluation.contamination.n_grams,
        "max_tokens": on["max_tokens"],
        "sampled": on.get("sampled"),
        "domains": measured_domains(recipe),
        "probes": probe_hashes(recipe.evaluation.probes),
        "data": hash_of({source: data_hash(directory) for source, directory in data.items()}),
    }


def _as_now(recipe: Recipe, identity: dict) -> dict:
    """A recorded identity with the keys that earlier releases left out."""
    return {"domains": list(recipe.sources), "sampled": None} | identity


# -------------------------------------------------------------------------------------- searching


def _index(texts: list[EvaluationText]) -> "Grams":
    by_length: dict[int, list[np.ndarray]] = defaultdict(list)
    for text in texts:
        if text.n:
            by_length[text.n].append(text.hashes)
    return {n: np.unique(np.concatenate(hashes)) for n, hashes in by_length.items()}


def _search(recipe: Recipe, data: dict[str, Path], tokenizer: Path, grams: "Grams") -> "dict[str, Places]":
    """By source, the first training document with each of the n-grams."""
    from perdure.pipeline.data.backends import remote_executor
    from perdure.pipeline.data.backends.local import local
    from perdure.pipeline.data.leaks import in_this_process, search_source

    with ExitStack() as stack:

        @cache
        def executor() -> "Execute":
            there = remote_executor(recipe, scoring=False)
            return stack.enter_context(there or local(recipe.data.workers, scoring=False))

        def searched(source: str, directory: Path) -> "Places":
            manifest = read_json(directory / "manifest.json")
            tokens = manifest["counts"]["train"]["tokens"]

            def handed_on(*arguments: Any) -> list[Counter]:
                logger.info(
                    f"looking for leaks in {source}: {format_tokens(tokens)} tokens in {manifest['tasks']} shards"
                )
                return executor()(*arguments)

            execute = in_this_process if tokens < HANDED_ON else handed_on
            return search_source(directory, tokenizer, grams, execute)

        return {source: searched(source, directory) for source, directory in data.items()}


def _group(
    texts: list[EvaluationText], searched: "dict[str, Places]", data: dict[str, Path]
) -> dict[str, Any]:
    """The contamination of one file or domain: an entry for each item and source that share text."""
    from perdure.pipeline.data.ngrams import shown

    found: list[dict[str, Any]] = []
    for text in texts:
        for source, places in searched.items():
            grams = enumerate((text.n, value) for value in text.hashes.tolist())
            if hit := next(((start, gram) for start, gram in grams if gram in places), None):
                words = shown(text.words, hit[0], text.n)
                found.append(
                    {"item": text.item, "source": source, "document": places[hit[1]], "words": words}
                )
    leaked, heldout = len({entry["item"] for entry in found}), texts[0].part == "heldout"
    found = found[:FOUND] if heldout else found
    for source, directory in data.items():
        own = [entry for entry in found if entry["source"] == source]
        names = _ids(directory, "train", {entry["document"] for entry in own})
        for entry in own:
            entry["document"] = names[entry["document"]]
    if heldout:
        names = _ids(data[source_of(texts[0].group)], "heldout", {entry["item"] for entry in found})
        for entry in found:
            entry["item"] = names[entry["item"]]
    return {
        "items": len(texts),
        "too_short": sum(text.n == 0 for text in texts),
        "leaked": leaked,
        "share": leaked / len(texts),
        "found": found,
    }


def _ids(directory: Path, split: str, places: "set[Place]") -> "dict[Place, str]":
    """Ids of some documents, read in parts: the table may not fit in memory."""
    found: dict[Place, str] = {}
    if not places:
        return found
    columns = ["split", "shard", "sequence", "id"]
    for batch in parquet.ParquetFile(directory / "docs.parquet").iter_batches(columns=columns):
        for row in batch.to_pylist():
            place = row["shard"], row["sequence"]
            if row["split"] == split and place in places:
                found[place] = row["id"]
    return found
