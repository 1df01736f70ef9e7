"""Held-out documents as a model is to fill them in: how well it knows a middle of which it sees both sides."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.core.tokenizers import LoadedTokenizer, load_tokenizer
from perdure.pipeline.data.fim import boundaries, draws, parts_of
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.recipe import Recipe

RULE = "whole documents by hash, 1"
"""Name of the rule by which they are cut; numbers under another rule are never compared with these."""
VIEW = "heldout"
"""Stands for the source's name where places are drawn, so that all sources and seeds cut a document alike."""


@dataclass(frozen=True)
class Row:
    """A row of tokens of which the last are scored.

    Attributes:
        tokens: Ids, without a first end-of-sequence token.
        scored: Of the last tokens, how many count.
        num_bytes: UTF-8 bytes of the text that counts.
    """

    tokens: list[int]
    scored: int
    num_bytes: int


def infilled_sources(recipe: Recipe) -> dict[str, str]:
    """The sources whose middles are measured, with a hash of how."""
    return {
        name: hash_of([RULE, fim.model_dump(mode="json", include={"sentinels"}), _spm(fim.spm)])
        for name, source in recipe.sources.items()
        if (fim := source.infilled)
    }


def infill_rows(recipe: Recipe, source: str, data: Path, tokenizer: Path) -> list[Row]:
    """A row for each held-out document of a source that has a middle, up to `evaluation.max_tokens` tokens in all.

    Of a repository each file is one. A document that is longer than a sample is cut to its beginning. The order is that of most
    of the source's transformed documents, PSM if they are half and half.

    Args:
        recipe: The recipe.
        source: The source's name.
        data: Its directory of shards.
        tokenizer: The tokenizer's directory.
    """
    manifest, loaded = read_json(data / "manifest.json"), load_tokenizer(tokenizer)
    sentinels, spm = tuple(manifest["fim"]["sentinels"]), _spm(manifest["fim"]["spm"])
    documents = heldout(data, source, recipe.evaluation.max_tokens).documents
    found: list[Row] = []
    columns = (documents[name].to_pylist() for name in ("shard", "sequence", "hash", "num_tokens"))
    for shard, sequence, key, num_tokens in zip(*columns):
        opened = open_shard(data / f"heldout.{shard:05d}")
        end = opened.start(sequence) + int(opened.lengths[sequence])
        tokens = opened.values[end - num_tokens : end - 1]  # without a prefix, which the text comes after
        for number, text in enumerate(_texts(tokens, manifest)):
            name = f"{key}/{number}" if number else key
            row = _row(loaded, text, name, (sentinels, spm), recipe.training.seq_length)
            if row is not None:
                found.append(row)
    ends = np.cumsum([len(row.tokens) for row in found])
    return found[: max(1, int(np.searchsorted(ends, recipe.evaluation.max_tokens, side="right")))]


def _texts(tokens: np.ndarray, manifest: dict) -> list[np.ndarray]:
    """The texts of a document: itself, or the files of a repository."""
    if "repository" not in manifest:
        return [tokens]
    places = np.flatnonzero(tokens == manifest["repository"]["sentinels"][1])
    return [part[1:] for part in np.split(tokens, places)[1:]]


def _spm(share: float | None) -> bool:
    """Whether most documents are in the order SPM."""
    return share is not None and share > 0.5


def _row(
    loaded: LoadedTokenizer,
    tokens: np.ndarray,
    key: str,
    form: tuple[tuple[int, ...], bool],
    longest: int,
) -> Row | None:
    """The row of a document; None if its middle is empty, or a sentinel stands in its text.

    Args:
        loaded: The tokenizer.
        tokens: The document's, without the separator.
        key: What its places are drawn from.
        form: The sentinels, and whether the suffix comes first.
        longest: Tokens of a sample.
    """
    sentinels, spm = form
    room = longest
    while room > 0:
        text = loaded.tokenizer.decode(tokens[:room].tolist(), skip_special_tokens=False)
        if room < len(tokens):
            text = text.rstrip("\ufffd")  # a character that was cut
        places = boundaries(draws(0, VIEW, key)[2:], len(text))
        parts = [
            part if isinstance(part, int) else loaded.tokenizer.encode(part, add_special_tokens=False).ids
            for part in parts_of(text, places, spm, sentinels)
        ]
        row = [token for part in parts for token in ([part] if isinstance(part, int) else part)]
        if sum(token in sentinels for token in row) > len(sentinels):
            return None  # a text that spells a sentinel
        end = len(sentinels) - 3
        middle = parts[len(parts) - 1 - end]
        assert isinstance(middle, list)
        row = row[: len(row) - end]  # what ends a middle is none of it
        if len(row) <= longest:
            return Row(row, len(middle), len(text[places[0] : places[1]].encode())) if middle else None
        room -= len(row) - longest
    return None
