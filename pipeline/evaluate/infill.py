"""Held-out documents as a model is to fill them in: how well it knows a middle of which it sees both sides."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.core.tokenizers import LoadedTokenizer, load_tokenizer
from perdure.pipeline.data.fim import Part, boundaries, draws, parts_of
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.recipe import Recipe

RULE = "whole documents by hash, 2"
"""Name of the rule by which they are cut; numbers under another rule are never compared with these."""
VIEW = "heldout"
"""Stands for the source's name where places are drawn, so that all sources and seeds cut a document alike."""
MOST_TOKENS = 4
"""Tokens of one character, at most: one for each of its bytes."""


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
    """A row for each held-out document of a source that has a middle, up to `evaluation.max_tokens` tokens of texts in all.

    Of a repository each file is one. A document that is longer than a sample is cut to its beginning. The order is that of most
    of the source's transformed documents, PSM if they are half and half. Texts are chosen by their hash, in which order and in
    which shards ever they are; they count as they do left to right, without sentinels.

    Args:
        recipe: The recipe.
        source: The source's name.
        data: Its directory of shards.
        tokenizer: The tokenizer's directory.
    """
    manifest, loaded = read_json(data / "manifest.json"), load_tokenizer(tokenizer)
    form, longest = _form(manifest), recipe.training.seq_length
    documents = heldout(data, source, recipe.evaluation.max_tokens).documents
    found: list[tuple[str, int, Row]] = []
    columns = (documents[name].to_pylist() for name in ("shard", "sequence", "hash", "num_tokens"))
    for shard, sequence, key, num_tokens in zip(*columns):
        opened = open_shard(data / f"heldout.{shard:05d}")
        end = opened.start(sequence) + int(opened.lengths[sequence])
        tokens = opened.values[end - num_tokens : end - 1]  # without a prefix, which the text comes after
        for text in _texts(loaded, tokens, key, form):
            if (row := _row(loaded, text, form, longest)) is not None:
                found.append((text.key, min(len(text.tokens) + 1, longest), row))
    found.sort(key=lambda entry: (entry[0], entry[2].tokens))
    ends = np.cumsum([size for _, size, _ in found])
    fitting = max(1, int(np.searchsorted(ends, recipe.evaluation.max_tokens, side="right")))
    return [row for *_, row in found[:fitting]]


@dataclass(frozen=True)
class _Form:
    """What rows are made of: as in training, with the ids of tokens.

    Attributes:
        sentinels: Before prefix, suffix and middle, and perhaps one behind the middle.
        spm: Whether the suffix comes first.
        repository: Before a repository's name, and before a file; empty: documents are no repositories.
        file_end: What stands behind a file.
        path_inside: Whether the prefix begins with a file's path, which otherwise stands before it.
    """

    sentinels: tuple[int, ...]
    spm: bool
    repository: tuple[int, ...] = ()
    file_end: str = ""
    path_inside: bool = False


@dataclass(frozen=True)
class _Text:
    """A document, or a file of a repository.

    Attributes:
        tokens: Its own, without the separator.
        key: What its places are drawn from, and what it is chosen by: the hash of its text.
        has_path: Whether it begins with its path and a line end.
    """

    tokens: np.ndarray
    key: str
    has_path: bool = False


def _form(manifest: dict) -> _Form:
    """The form of a source's rows."""
    form = _Form(tuple(manifest["fim"]["sentinels"]), _spm(manifest["fim"]["spm"]))
    if (own := manifest.get("repository")) is None:
        return form
    return replace(
        form, repository=tuple(own["sentinels"]), file_end=own["file_end"], path_inside=own["path_inside"]
    )


def _texts(loaded: LoadedTokenizer, tokens: np.ndarray, key: str, form: _Form) -> Iterator[_Text]:
    """The texts of a document: itself, or the files of a repository."""
    if not form.repository:
        yield _Text(tokens, key)
        return
    name_token, file_token = form.repository
    has_paths = bool(tokens[0] == name_token)
    for part in np.split(tokens, np.flatnonzero(tokens == file_token))[1:]:
        _, code = _split(_decode(loaded, part[1:]), has_paths)
        yield _Text(part[1:], hash_of(code.removesuffix(form.file_end)), has_paths)


def _split(text: str, has_path: bool) -> tuple[str, str]:
    """A file's path with the line end behind it, and its code."""
    begin = text.find("\n") + 1 or len(text)
    return (text[:begin], text[begin:]) if has_path else ("", text)


def _decode(loaded: LoadedTokenizer, tokens: np.ndarray) -> str:
    """The text of some tokens, special ones as they are spelled."""
    return loaded.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)


def _spm(share: float | None) -> bool:
    """Whether most documents are in the order SPM."""
    return share is not None and share > 0.5


def _row(loaded: LoadedTokenizer, text: _Text, form: _Form, longest: int) -> Row | None:
    """The row of a text; None if its middle is empty, or a token that stands between texts is spelled in it.

    Args:
        loaded: The tokenizer.
        text: The text.
        form: The form.
        longest: Tokens of a sample.
    """
    marks, room = {*form.sentinels, *form.repository}, longest
    start = list[Part](form.repository[1:])
    while room > 0:
        beginning, more = (_decode(loaded, text.tokens[:stop]) for stop in (room, room + MOST_TOKENS))
        while not more.startswith(beginning):  # a character that was cut
            beginning = beginning[:-1]
        path, code = _split(beginning, text.has_path)
        places = boundaries(draws(0, VIEW, text.key)[2:], len(code))
        outside, inside = ("", path) if form.path_inside else (path, "")
        cut = parts_of(code, places, form.spm, form.sentinels, inside)
        parts = [
            part if isinstance(part, int) else loaded.tokenizer.encode(part, add_special_tokens=False).ids
            for part in (*start, outside, *cut)
        ]
        row = [token for part in parts for token in ([part] if isinstance(part, int) else part)]
        if sum(token in marks for token in row) > len(start) + len(form.sentinels):
            return None
        end = len(form.sentinels) - 3
        middle = parts[len(parts) - 1 - end]
        assert isinstance(middle, list)
        row = row[: len(row) - end]  # what ends a middle is none of it
        if len(row) <= longest:
            return Row(row, len(middle), len(code[places[0] : places[1]].encode())) if middle else None
        room -= len(row) - longest
    return None
