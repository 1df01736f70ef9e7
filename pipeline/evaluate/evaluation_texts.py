"""The evaluation texts that are looked for in training data: probes and held-out documents, as n-grams of words."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.evaluate.probes import probe_files
from perdure.pipeline.plan.domains import measured_domains, source_of
from perdure.pipeline.recipe import Recipe

if TYPE_CHECKING:
    from perdure.pipeline.data.leaks import Place


@dataclass(frozen=True)
class EvaluationText:
    """An evaluation text to look for.

    Attributes:
        part: `probes` or `heldout`.
        group: The file or domain it belongs to; a held-out document may belong to several.
        item: Its id there; of a held-out document, its place.
        words: As they are compared.
        n: Words that must agree; 0 for texts that are too short.
        hashes: Of its n-grams, uint64.
        by_amount: Whether version 0.1 compared it otherwise (`scripts.compared_by_amount`).
    """

    part: str
    group: str
    item: "str | Place"
    words: list[str]
    n: int
    hashes: np.ndarray
    by_amount: bool


def evaluation_texts(
    recipe: Recipe, data: dict[str, Path], tokenizer: Path, n_grams: int
) -> Iterator[EvaluationText]:
    """Yields all probes and held-out documents that the recipe measures on.

    Args:
        recipe: The recipe.
        data: By source its data directory.
        tokenizer: The tokenizer's directory.
        n_grams: Words that training text has to share with a text.
    """
    for file in probe_files(recipe.evaluation.probes):
        for probe in file.probes:
            yield _text("probes", file.name, probe.id, "".join(probe.filled(probe.answer)), n_grams)
    for source, directory in data.items():
        domains = [domain for domain in measured_domains(recipe) if source_of(domain) == source]
        places = {domain: _measured_places(recipe, directory, domain) for domain in domains}
        texts = _heldout_texts(
            directory, tokenizer, sorted({place for own in places.values() for place in own})
        )
        for domain, own in places.items():
            for place in own:
                yield _text("heldout", domain, place, texts[place], n_grams)


def _measured_places(recipe: Recipe, directory: Path, domain: str) -> "list[Place]":
    """The shard and sequence of each held-out document that a domain is measured on."""
    measured = heldout(directory, domain, recipe.evaluation.max_tokens).documents
    return list(zip(measured["shard"].to_pylist(), measured["sequence"].to_pylist(), strict=True))


def _heldout_texts(directory: Path, tokenizer: Path, places: "list[Place]") -> "dict[Place, str]":
    from perdure.pipeline.data.leaks import prefix_mask, texts

    numbers: dict[int, list[int]] = defaultdict(list)
    for shard, number in places:
        numbers[shard].append(number)
    return {
        (shard, number): text
        for shard, own in numbers.items()
        for number, text in texts(
            open_shard(directory / f"heldout.{shard:05d}"),
            tokenizer,
            own,
            mask=prefix_mask(directory, f"heldout.{shard:05d}"),
        )
    }


def _text(part: str, group: str, item: "str | Place", text: str, n_grams: int) -> EvaluationText:
    from perdure.pipeline.data import ngrams
    from perdure.pipeline.data.scripts import compared_by_amount

    words = ngrams.simple_words(text)
    sizes = ngrams.word_sizes(words)
    amount = int(sizes.sum()) // ngrams.WORD
    n = min(n_grams, amount) if amount >= ngrams.MIN_WORDS else 0
    hashes = ngrams.joined_hashes(ngrams.word_hashes(words), sizes, n) if n else np.empty(0, np.uint64)
    return EvaluationText(part, group, item, words, n, hashes, compared_by_amount(text))
