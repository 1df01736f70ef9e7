"""Evaluation texts in the training shards: n-grams of words that both hold (Brown et al. 2020, appendix C).

Held-out documents are in no training shard by their hash, but near duplicates of them may be; probes may stand anywhere.
What is looked at is what was trained on: the shards' own tokens, decoded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from perdure.pipeline.evaluate.probes import probe_files, probe_hashes
from perdure.pipeline.manifest import hash_of, read_json, write_json
from perdure.pipeline.planning import data_hash
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.shards import open_shard

MIN_WORDS = 8
"""Shorter texts are not looked for: they would be found anywhere (the lower bound of Brown et al. 2020, appendix C)."""
FOUND = 20
"""Held-out documents that the report names."""
POOLED = 5_000_000
"""Training tokens from which on a pool of processes is worth its start."""
BATCH = 256
"""Documents decoded at a time."""

Place = tuple[int, int]
"""Shard and number of a document."""
Grams = dict[int, np.ndarray]
"""By length n, hashes of n-grams, uint64 sorted."""


@dataclass(frozen=True)
class Passage:
    """A text to look for.

    Attributes:
        part: `probes` or `heldout`.
        group: The file or domain it belongs to.
        item: Its id there; of a held-out document, its place.
        words: As they are compared.
        n: Words that must agree; 0 for texts that are too short.
        hashes: Of its n-grams, uint64.
    """

    part: str
    group: str
    item: str | Place
    words: list[str]
    n: int
    hashes: np.ndarray


def look_for_leaks(
    recipe: Recipe, data: dict[str, Path], tokenizer: Path, say: Callable[[str], None]
) -> None:
    """Writes `<out>/contamination.json`, unless the one that is there is of the same texts, data and settings.

    Args:
        recipe: What to look for.
        data: Finished data directory per source.
        tokenizer: The tokenizer's directory.
        say: Takes a line for the console.

    Raises:
        PerdureError: If a probe file or a shard is missing or broken.
    """
    settings = recipe.evaluation.contamination
    if settings is None:
        return
    path = recipe.directory / "contamination.json"
    identity = _identity(recipe, data)
    if path.exists() and read_json(path)["identity"] == identity:
        return
    passages = list(_passages(recipe, data, tokenizer, settings.n_grams))
    grams = _index(passages)
    searched = {source: _search(recipe, directory, tokenizer, grams) for source, directory in data.items()}
    report: dict[str, Any] = {"n_grams": settings.n_grams, "min_words": MIN_WORDS}
    for part in ("probes", "heldout"):
        groups = dict.fromkeys(passage.group for passage in passages if passage.part == part)
        report[part] = {
            group: _group([p for p in passages if (p.part, p.group) == (part, group)], searched, data)
            for group in groups
        }
    write_json(path, {"identity": identity} | report)
    if lines := contamination_words(report):
        say("\n".join(lines))


def contamination(recipe: Recipe) -> dict | None:
    """What was found, as docs/evaluation.md says; None if it was not looked for, or for other texts or settings."""
    path, settings = recipe.directory / "contamination.json", recipe.evaluation.contamination
    if settings is None or not path.exists():
        return None
    found = read_json(path)
    identity = found.pop("identity")
    same = (identity["n_grams"], identity["max_tokens"]) == (settings.n_grams, recipe.evaluation.max_tokens)
    return found if same else None


def contamination_words(report: dict) -> list[str]:
    """A line for each file or domain of which something leaked."""
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
    """What the answer depends on."""
    assert recipe.evaluation.contamination is not None
    return {
        "n_grams": recipe.evaluation.contamination.n_grams,
        "max_tokens": recipe.evaluation.max_tokens,
        "probes": probe_hashes(recipe.evaluation.probes),
        "data": hash_of({source: data_hash(directory) for source, directory in data.items()}),
    }


# -------------------------------------------------------------------------------- what is looked for


def _passages(recipe: Recipe, data: dict[str, Path], tokenizer: Path, n_grams: int) -> Iterator[Passage]:
    for file in probe_files(recipe.evaluation.probes):
        for probe in file.probes:
            yield _passage("probes", file.name, probe.id, "".join(probe.filled(probe.answer)), n_grams)
    for source, directory in data.items():
        end = 0
        for task in range(read_json(directory / "manifest.json")["tasks"]):
            for number, text, tokens in _texts(directory / f"heldout.{task:05d}", tokenizer):
                end += tokens
                if end == tokens or end <= recipe.evaluation.max_tokens:  # those that are measured
                    yield _passage("heldout", source, (task, number), text, n_grams)


def _passage(part: str, group: str, item: str | Place, text: str, n_grams: int) -> Passage:
    from perdure.pipeline.data.decontaminate import joined_hashes, simple_words, word_hashes

    words = simple_words(text)
    n = min(n_grams, len(words)) if len(words) >= MIN_WORDS else 0
    hashes = joined_hashes(word_hashes(words), n) if n else np.empty(0, np.uint64)
    return Passage(part, group, item, words, n, hashes)


def _index(passages: list[Passage]) -> Grams:
    by_length: dict[int, list[np.ndarray]] = defaultdict(list)
    for passage in passages:
        if passage.n:
            by_length[passage.n].append(passage.hashes)
    return {n: np.unique(np.concatenate(hashes)) for n, hashes in by_length.items()}


def _texts(prefix: Path, tokenizer: Path) -> Iterator[tuple[int, str, int]]:
    """The documents of a shard: number, text, tokens."""
    from perdure.pipeline.data.tokenizer import load_tokenizer

    shard, vocabulary = open_shard(prefix), load_tokenizer(tokenizer).tokenizer
    for first in range(0, len(shard.lengths), BATCH):
        numbers = range(first, min(first + BATCH, len(shard.lengths)))
        # Without the end-of-sequence token.
        ids = [
            shard.values[shard.start(n) : shard.start(n) + int(shard.lengths[n]) - 1].tolist()
            for n in numbers
        ]
        texts = vocabulary.decode_batch(ids, skip_special_tokens=False)
        for number, text, document in zip(numbers, texts, ids, strict=True):
            yield number, text, len(document) + 1


# ------------------------------------------------------------------------------ where it is looked for


Places = dict[tuple[int, int], Place]
"""By length and hash of an n-gram, the first document that holds it."""


def _search(recipe: Recipe, directory: Path, tokenizer: Path, grams: Grams) -> Places:
    """The first training document of a source with each of the n-grams."""
    from perdure.pipeline.data.executor import worker_pool

    manifest = read_json(directory / "manifest.json")
    look, tasks = partial(_search_shard, directory, tokenizer, grams), range(manifest["tasks"])
    if manifest["counts"]["train"]["tokens"] < POOLED:
        parts = [look(task) for task in tasks]
    else:
        with worker_pool(recipe.data.workers, scoring=False) as pool:
            parts = list(pool.map(look, tasks))
    found: Places = {}
    for part in parts:
        found = part | found
    return found


def _search_shard(directory: Path, tokenizer: Path, grams: Grams, task: int) -> Places:
    from perdure.pipeline.data.decontaminate import joined_hashes, simple_words, word_hashes

    found: Places = {}
    for number, text, _ in _texts(directory / f"{task:05d}", tokenizer):
        words = word_hashes(simple_words(text))
        for n, wanted in grams.items():
            hashes = joined_hashes(words, n)
            if len(hashes):
                places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
                for value in hashes[wanted[places] == hashes].tolist():
                    found.setdefault((n, value), (task, number))
    return found


def _group(passages: list[Passage], searched: dict[str, Places], data: dict[str, Path]) -> dict[str, Any]:
    """What of one file or domain leaked: an entry for each item and source that holds some of it."""
    found: list[dict[str, Any]] = []
    for passage in passages:
        for source, places in searched.items():
            grams = enumerate((passage.n, value) for value in passage.hashes.tolist())
            if hit := next(((start, gram) for start, gram in grams if gram in places), None):
                words = " ".join(passage.words[hit[0] : hit[0] + passage.n])
                found.append(
                    {"item": passage.item, "source": source, "document": places[hit[1]], "words": words}
                )
    leaked, heldout = len({entry["item"] for entry in found}), passages[0].part == "heldout"
    found = found[:FOUND] if heldout else found
    for source, directory in data.items():
        own = [entry for entry in found if entry["source"] == source]
        names = _ids(directory, "train", {entry["document"] for entry in own})
        for entry in own:
            entry["document"] = names[entry["document"]]
    if heldout:
        names = _ids(data[passages[0].group], "heldout", {entry["item"] for entry in found})
        for entry in found:
            entry["item"] = names[entry["item"]]
    return {
        "items": len(passages),
        "too_short": sum(passage.n == 0 for passage in passages),
        "leaked": leaked,
        "share": leaked / len(passages),
        "found": found,
    }


def _ids(directory: Path, split: str, places: set[Place]) -> dict[Place, str]:
    """The names of some documents, out of a table that may be too large to hold."""
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
