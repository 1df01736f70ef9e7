"""Samples of a source's documents, whose tokens are compared with AutoTokenizer's."""

import heapq
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from datatrove.data import Document

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_atomic

SAMPLES = "samples"
"""Directory, beside the artefact that is being built, where tasks leave them."""
DOCUMENTS = 64
"""Most documents of a source that are compared: those with the lowest hashes, whatever the number of tasks."""
CHARS = 200_000
"""Characters of them, about."""
EXAMPLE_CHARS = 100
"""Characters of the worst covered document that are shown."""


class Sample:
    """A task's sample: documents with their tokens, and the one that lost the largest share of characters."""

    def __init__(self) -> None:
        self.lowest: list[tuple[int, int, dict]] = []
        self.shortest: dict | None = None
        self.worst: dict | None = None
        self.numbers = count()

    def add(self, document: Document, digest: int, tokens: list[int]) -> None:
        """Adds a document with its hash and its tokens (separator included)."""
        text = document.text
        fits = len(text) <= CHARS and (len(self.lowest) < DOCUMENTS or -digest > self.lowest[0][0])
        shortest = self.shortest is None or len(text) < len(self.shortest["text"])
        if not fits and not shortest:
            return
        row = {"id": document.id, "hash": f"{digest:016x}", "text": text, "tokens": tokens}
        if fits:
            push = heapq.heappushpop if len(self.lowest) == DOCUMENTS else heapq.heappush
            push(self.lowest, (-digest, next(self.numbers), row))
        if shortest:  # in case all are too long
            self.shortest = row

    def lost(self, document: Document, share: float) -> None:
        """Records the share of a document's characters that have no token."""
        if self.worst is None or share > self.worst["share"]:
            text = " ".join(document.text.split())[:EXAMPLE_CHARS]
            self.worst = {"id": document.id, "share": round(share, 4), "text": text}

    def write(self, path: Path) -> None:
        """Writes both for `read_samples`."""
        rows = [row for *_, row in self.lowest] or [row for row in (self.shortest,) if row]
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps({"documents": rows, "worst": self.worst}, ensure_ascii=False) + "\n")


def read_samples(directory: Path) -> tuple[list[dict], dict | None]:
    """Samples of all tasks: documents to compare, lowest hashes first, and the one that lost most, if any did."""
    parts = [read_json(path) for path in sorted(directory.glob("*.json"))]
    worst = [part["worst"] for part in parts if part["worst"]]
    rows = sorted(
        (row for part in parts for row in part["documents"]), key=lambda row: (row["hash"], row["id"])
    )
    return list(_within(rows[:DOCUMENTS])), max(
        worst, key=lambda row: (row["share"], row["id"]), default=None
    )


def _within(rows: list[dict]) -> Iterator[dict]:
    """The first rows, as many as have `CHARS` characters, but at least one."""
    chars = 0
    for number, row in enumerate(rows):
        chars += len(row["text"])
        if number and chars > CHARS:
            return
        yield row


def compare(rows: list[dict], auto: Any, parse_special_tokens: bool, where: str) -> None:
    """Compares documents' tokens with those that AutoTokenizer gives for the same texts.

    Args:
        rows: What `read_samples` returned.
        auto: The tokenizer, as AutoTokenizer loads it from an export.
        parse_special_tokens: Whether the spelling of a special token in a text becomes that token.
        where: What to call the source in messages.

    Raises:
        PerdureError: With the first document that differs, the place, and the tokens there.
    """
    for row in rows:
        ours = row["tokens"][:-1]
        options = {"split_special_tokens": not parse_special_tokens, "verbose": False}
        theirs = auto(row["text"], add_special_tokens=False, **options)["input_ids"]
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs))
            place = next((at for at, (own, their) in pairs if own != their), min(len(ours), len(theirs)))
            pieces = [
                repr(auto.convert_ids_to_tokens(ids[place])) if place < len(ids) else "the end"
                for ids in (ours, theirs)
            ]
            raise PerdureError(
                f"{where}: document {row['id']}, token {place}: the shards have {pieces[0]}, AutoTokenizer gives "
                f"{pieces[1]} for the exported tokenizer; all machines of a run need the same versions of tokenizers and "
                "transformers; remove the tokenizer's directory in the run's `out`, and run the same command again"
            )
