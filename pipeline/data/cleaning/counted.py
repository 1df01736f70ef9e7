"""Counts of a cleaning step: documents and words in, dropped by reason, and out; with examples of dropped documents.

For every step, in = out + dropped holds for documents and for words. A step that shortens documents drops words of
documents that it keeps; they count as `shortened`.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from perdure.pipeline.core.files import write_atomic
from perdure.pipeline.data.cleaning.normalise import count_words, normalise, text_hash
from perdure.pipeline.data.cleaning.time_limit import TooSlow, within_limit

EXAMPLES = 5
"""Dropped documents shown per step and reason: those with the lowest hashes, whatever the number of tasks or workers."""
EXAMPLE_CHARS = 1000
"""Characters shown of each."""
SHORTENED, TOO_SLOW = "shortened", "too_slow"
JUDGING: dict[str, tuple[Callable[..., str], Callable[..., Any]]] = {
    "filter": (lambda document: document.text, lambda document: (False, TOO_SLOW)),
    "format": (lambda text: text, lambda text: ""),
    "remove_dup_sentences": (lambda document, _: document.text, lambda document, _: ("", document.text)),
}
"""Methods in which datatrove's steps look at one document: where its text is, and what they return to drop it."""


@dataclass(frozen=True)
class Block:
    """How datatrove carries out a cleaning step.

    Attributes:
        reason: Why a document is dropped, where datatrove names no reason.
        step: What documents pass through.
        sign: Reads all documents before any may pass.
        match: Then these run, each as so many tasks.
        signed: Lists the files that tasks left by `sign`, one each, as `match` will see them.
        report: Reads what the manifest's record of the step is to say besides its counts.
    """

    reason: str
    step: PipelineStep
    sign: PipelineStep | None = None
    match: list[tuple[PipelineStep, int]] = field(default_factory=list)
    signed: Callable[[], list[str]] | None = None
    report: Callable[[], dict[str, Any]] = dict


class CountedStep(PipelineStep):
    """Runs another step and counts its documents: one that went in and did not come out is dropped."""

    type = "🧮 - COUNTED"

    def __init__(self, block: Block, name: str, examples: Path):
        super().__init__()
        self.step, self.reason, self.name, self.examples = block.step, block.reason, name, examples
        self.step.exclusion_writer = self
        self.found: dict[str, list] = {}
        self.inside: _Inside | None = None

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields what the step lets pass; leaves examples of the rest in `<examples>/<rank>.jsonl`."""
        for method, (text_of, instead) in JUDGING.items():
            if judge := getattr(self.step, method, None):
                setattr(self.step, method, partial(self.judge, judge, text_of, instead))
        for document in self.step.run(self.feed(data), rank, world_size):
            inside, self.inside = self.inside, None
            assert inside is not None and inside.document is document
            if document.text is not inside.text:
                document.text = normalise(document.text)
                if not document.text:
                    self.drop(inside, inside.reason or self.reason)
                    continue
            left = count_words(document.text)
            if left != inside.words:
                self.drop(inside, SHORTENED, documents=0, words=inside.words - left)
            self.stat_update("out")
            self.stat_update("words_out", value=left)
            yield document
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for rows in self.found.values() for row in rows]
        write_atomic(self.examples / f"{rank:05d}.jsonl", "".join(lines))

    def judge(self, call: Callable, text_of: Callable, instead: Callable, *arguments: Any) -> Any:
        """Has the step judge a document; one that takes too long is named in the task's log and dropped."""
        try:
            return within_limit(call, len(text_of(*arguments)), *arguments)
        except TooSlow:
            assert self.inside is not None
            self.inside.reason = TOO_SLOW
            logger.warning(f"{self.name}: document {self.inside.document.id} takes too long, and is dropped")
            return instead(*arguments)

    def feed(self, data: DocumentsPipeline) -> Iterator[Document]:
        """Hands the step one document after the other."""
        for document in data:
            self.settle()
            self.inside = _Inside(document, document.text, count_words(document.text))
            self.stat_update("in")
            self.stat_update("words_in", value=self.inside.words)
            yield document
        self.settle()

    def settle(self) -> None:
        """Counts the document inside, if it is still there when the next one is asked for."""
        if self.inside is not None:
            self.drop(self.inside, self.inside.reason or self.reason)
            self.inside = None

    def drop(self, inside: "_Inside", reason: str, documents: int = 1, words: int | None = None) -> None:
        """Counts a document, or some of its words, as dropped, and keeps it if it is to be an example."""
        self.stat_update(f"dropped:{reason}", value=documents)
        self.stat_update(f"words_dropped:{reason}", value=inside.words if words is None else words)
        row = {
            "reason": reason,
            "hash": f"{text_hash(inside.text):016x}",
            "id": inside.document.id,
            "words": inside.words,
            "text": inside.text[:EXAMPLE_CHARS],
        }
        if reason == SHORTENED:
            row["left"] = inside.document.text[:EXAMPLE_CHARS]
        self.found[reason] = _lowest([*self.found.get(reason, []), row])

    def __enter__(self) -> "CountedStep":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, document: Document, rank: int = 0) -> None:
        """Remembers the reason of a dropped document; datatrove calls it instead of writing the document."""
        if self.inside is not None:
            reason = document.metadata.pop("filter_reason", None)
            self.inside.reason = self.inside.reason or reason


@dataclass
class _Inside:
    """The document that the step is looking at, as it went in."""

    document: Document
    text: str
    words: int
    reason: str | None = None


def merge_examples(directory: Path, merged: Path) -> None:
    """Merges the tasks' examples of dropped documents, lowest hashes first; writes no file if nothing was dropped."""
    rows = [json.loads(line) for part in sorted(directory.glob("*.jsonl")) for line in part.open("rb")]
    rows.sort(key=lambda row: row["reason"])
    kept = [row for _, group in groupby(rows, lambda row: row["reason"]) for row in _lowest(list(group))]
    if kept:
        write_atomic(merged, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def _lowest(rows: list[dict]) -> list[dict]:
    return heapq.nsmallest(EXAMPLES, rows, key=lambda row: (row["hash"], row["id"]))


def step_counts(name: str, counter: Counter) -> dict:
    """A step's record in the manifest.

    Returns:
        `step`, its name; `in` and `out`: `documents` and `words`; `dropped`: the same by reason.
    """
    reasons = sorted(key[8:] for key in counter if key.startswith("dropped:"))
    record: dict[str, Any] = {
        "step": name,
        "in": {"documents": counter["in"], "words": counter["words_in"]},
        "dropped": {
            reason: {
                "documents": counter[f"dropped:{reason}"],
                "words": counter[f"words_dropped:{reason}"],
            }
            for reason in reasons
        },
        "out": {"documents": counter["out"], "words": counter["words_out"]},
    }
    for unit in ("documents", "words"):
        dropped = sum(entry[unit] for entry in record["dropped"].values())
        assert record["in"][unit] == record["out"][unit] + dropped, record
    return record


def total(steps: list[dict], unit: str) -> dict:
    """Counts over a chain of steps: `in` of the first, `out` of the last, and all that was `dropped`, by reason."""
    dropped: Counter = Counter()
    for step in steps:
        dropped.update({reason: entry[unit] for reason, entry in step["dropped"].items() if entry[unit]})
    found = {
        "in": steps[0]["in"][unit],
        "dropped": dict(sorted(dropped.items())),
        "out": steps[-1]["out"][unit],
    }
    assert found["in"] == found["out"] + dropped.total(), found
    return found
