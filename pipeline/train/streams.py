"""Reading packed samples of one source: shards hold the tokens, sidecars the scores, an order which documents follow.

What is read follows from a sample's number alone, so there is no state to restore.
"""

import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import PREFIX, REF_MISSING, Shard, label_sides, open_shard, second_half
from perdure.pipeline.evaluate.documents import Heldout
from perdure.pipeline.train.batch import Sample
from perdure.pipeline.train.paging import ask, find_place, memory_map
from perdure.pipeline.train.scores import require_known, smoothed


@dataclass(frozen=True)
class Stream:
    """One source in training order.

    Attributes:
        documents: int64 [entries], document numbers in order, counted over all shards; an entry is a document or a part of one.
        ends: int64 [entries], where each ends in the stream.
        shard_starts: int64 [shards], number of each shard's first document.
        shards: Tokens.
        sidecars: Per shard, what the score subtracts the largest of, in milli-nats, document by document, of which those that
            have no scores have no tokens there; empty without a reference.
        eos_id: Stands before the first document.
        smoothing: Neighbours to either side that the sidecars are averaged over.
        tails: int64 [entries], tokens of its document behind each entry; None if entries are whole documents.
        masks: Per shard, which tokens count as labels (`core.shards.LABEL`); empty: all do.
        last_turn: Whether only labels of a conversation's last assistant turn count.
        packed: Whether samples are made of whole entries (`plan/packing.py`): each sample begins behind a separator, whatever
            stands before it.
        pairs: Whether labels of rejected answers count, too, and samples say of which answer each label is.
        complete: Whether scores of labels are added up, so that each must be there and none clipped.

    Entries of document -1 are padding, or documents that are withdrawn (`plan/withdrawn.py`): a sample has nothing in their
    place, and as much more padding behind its last document.
    """

    documents: np.ndarray
    ends: np.ndarray
    shard_starts: np.ndarray
    shards: list[Shard]
    sidecars: list[tuple[Shard, ...]]
    eos_id: int
    smoothing: int = 0
    tails: np.ndarray | None = None
    masks: tuple[Shard, ...] = ()
    last_turn: bool = False
    packed: bool = False
    pairs: bool = False
    complete: bool = False


def expect_random_access(stream: Stream) -> None:
    """Tells the system to read no pages around those asked for: the 128 KiB of its read-ahead are other samples'."""
    shards = [*stream.shards, *stream.masks, *(sidecar for group in stream.sidecars for sidecar in group)]
    arrays = [array for shard in shards for array in (shard.values, shard.lengths, shard.pointers)]
    entries = [stream.documents, stream.ends, *([] if stream.tails is None else [stream.tails])]
    for array in (*entries, *arrays):
        if (mapped := memory_map(array)) is not None:
            mapped.madvise(mmap.MADV_RANDOM)


def open_heldout(data: Path, held: Heldout, lead: int) -> tuple[Stream, np.ndarray]:
    """What is measured of a domain as a stream, with what has to stand around pieces of documents.

    A piece that does not begin its document comes after as much of it as a sample holds, so that it has the context that it
    would have if all were measured; one that does not end it comes before the document's separator, as any other text does.

    Args:
        data: The source's directory of shards.
        held: What is measured, at least one document.
        lead: Tokens that a sample holds.

    Returns:
        The stream, and int64 [its entries]: the row of `held.documents` that each counts for, -1 for what is read but not
        measured.
    """
    numbers, whole = (held.documents[name].to_numpy() for name in ("number", "num_tokens"))
    whole = whole.astype(np.int64)[held.rows]
    before = np.stack([np.maximum(held.begins - lead, 0), held.begins], 1)
    after = np.stack([np.where(held.stops < whole, whole - 1, whole), whole], 1)
    # Three entries a piece, of which the first and the last may be empty.
    parts = np.stack([before, np.stack([held.begins, held.stops], 1), after], 1).reshape(-1, 2)
    rows = np.stack([np.full_like(held.rows, -1), held.rows, np.full_like(held.rows, -1)], 1).flatten()
    there = parts[:, 1] > parts[:, 0]
    parts, rows = parts[there], rows[there]
    documents, tails = numbers[held.rows].repeat(3)[there], whole.repeat(3)[there] - parts[:, 1]
    stream = open_stream(data, None, documents, np.cumsum(parts[:, 1] - parts[:, 0]), prefix="heldout.")
    return replace(stream, tails=tails), rows


def open_stream(
    data: Path,
    scores: Path | None,
    documents: np.ndarray,
    ends: np.ndarray,
    prefix: str = "",
    kinds: tuple[str, ...] = ("ref",),
    smoothing: int = 0,
    opened: Callable[[Path], Shard] = open_shard,
) -> Stream:
    """Opens some documents of a source as one stream of tokens.

    Args:
        data: The source's directory of shards.
        scores: Directory of its scores; None: the stream has none.
        documents: int64 [entries], see `Stream`.
        ends: int64 [entries], see `Stream`.
        prefix: Of the shards' names: empty for training documents, `heldout.` for those held out.
        kinds: Kinds of scores to read, as in their files' names.
        smoothing: See `Stream`.
        opened: Opens a shard; one that remembers lets streams of one source share its maps.

    Raises:
        PerdureError: If a shard is missing or truncated, or scores are of other data.
    """
    manifest = read_json(data / "manifest.json")
    shards = [opened(data / f"{prefix}{task:05d}") for task in range(manifest["tasks"])]
    sidecars = []
    if scores is not None:
        scored = read_json(scores / "manifest.json")
        for key in ("tokenizer_hash", "data_hash"):
            if scored[key] != manifest[key]:
                raise PerdureError(
                    f"{scores}: made with {key} {scored[key]}, but {data} has {manifest[key]}; delete it and run again"
                )
        for task, shard in enumerate(shards):
            prefixes = [scores / f"{task:05d}.{kind}" for kind in kinds]
            sidecars.append(tuple(_sidecar(opened(prefix), shard, prefix) for prefix in prefixes))
    masked = manifest["tasks"] if manifest.get("label_mask") else 0
    masks = [data / f"{prefix}{task:05d}.mask" for task in range(masked)]
    starts = np.cumsum([0, *(len(shard.lengths) for shard in shards)])[:-1]
    return Stream(
        documents,
        ends,
        starts,
        shards,
        sidecars,
        manifest["eos_id"],
        smoothing,
        masks=tuple(_sidecar(opened(mask), shard, mask) for mask, shard in zip(masks, shards)),
    )


def _sidecar(sidecar: Shard, shard: Shard, prefix: Path) -> Shard:
    if len(sidecar.values) > len(shard.values) or len(sidecar.lengths) != len(shard.lengths):
        raise PerdureError(
            f"{prefix}: {len(sidecar.values):,} values for {len(shard.values):,} tokens; "
            "it belongs to other data: delete it and run again"
        )
    return sidecar


@dataclass(frozen=True)
class _Span:
    """Part of a document: `place` in its sample; the shard `task`; `begin` to `stop`, and the whole `document`, in it.

    `before` are the tokens of documents before it that the shard's sidecars leave out.
    """

    place: int
    task: int
    begin: int
    stop: int
    document: tuple[int, int]
    before: int


def _spans(stream: Stream, position: int, last: int, labels: int) -> list[_Span]:
    """The parts of documents in [position, last) of a stream, whose labels begin at `labels`: at `position`, or one later.

    All pages are asked for before any is waited for.
    """
    entry, end = find_place(stream.ends, position), position
    documents = []
    while end < last:
        begin, document, end = end, int(stream.documents[entry]), int(stream.ends[entry])
        tail = 0 if stream.tails is None else int(stream.tails[entry])
        entry += 1
        if document < 0:
            continue
        task = int(np.searchsorted(stream.shard_starts, document, side="right")) - 1
        number = document - int(stream.shard_starts[task])
        for part in (stream.shards[task], *_partial(stream, task)):
            ask(part.pointers, number, number + 1)
            ask(part.lengths, number, number + 1)
        documents.append((task, number, begin, end, tail))
    spans, place = list[_Span](), position - labels + 1
    for task, number, begin, end, tail in documents:
        shard = stream.shards[task]
        start = shard.start(number)
        whole = start, start + int(shard.lengths[number])
        stop = min(end, last)
        # The document's end in its shard, less what is left of it after `stop`.
        finish = whole[1] - tail - (end - stop)
        if begin >= labels:  # the first input's own place stays empty where its document is withdrawn
            place = max(place, 1)
        before = start - _scored(stream, task, number) if _partial(stream, task) else 0
        spans.append(_Span(place, task, finish - (stop - begin), finish, whole, before))
        ask(shard.values, spans[-1].begin, finish)
        for part in stream.sidecars[task] if stream.sidecars else ():
            ask(part.values, spans[-1].begin - before, finish - before)
        if stream.masks:
            ask(stream.masks[task].values, spans[-1].begin, finish)
        place += stop - begin
    return spans


def _partial(stream: Stream, task: int) -> tuple[Shard, ...]:
    """A shard's sidecars, if they leave any of its documents out."""
    sidecars = stream.sidecars[task] if stream.sidecars else ()
    return sidecars if sidecars and len(sidecars[0].values) < len(stream.shards[task].values) else ()


def _scored(stream: Stream, task: int, number: int) -> int:
    """Where a document begins in a shard's sidecars.

    Raises:
        PerdureError: If it has no scores.
    """
    for sidecar in stream.sidecars[task]:
        if sidecar.lengths[number] != stream.shards[task].lengths[number]:
            raise PerdureError(
                f"{getattr(sidecar.lengths, 'filename', 'scores')}: has no scores of document {number:,}, which the plan "
                f"reads; run `perdure "
                "prepare` of the version again, which scores what is missing"
            )
    return stream.sidecars[task][0].start(number)


def read_sample(stream: Stream, sample: int, seq_length: int, plain: bool = False) -> Sample:
    """Reads one packed sample.

    Args:
        stream: The source.
        sample: Its place in the stream; its labels are tokens [sample * seq_length, (sample + 1) * seq_length).
        seq_length: Labels per sample.
        plain: Whether prefixes of documents are left out; the sample is shorter by them, and padded.

    Raises:
        PerdureError: If a document lacks the scores that the stream should have.
    """
    first = sample * seq_length - 1
    last = min(first + 1 + seq_length, int(stream.ends[-1]))
    tokens = np.full(seq_length + 1, stream.eos_id, np.int64)
    reference = np.full(seq_length + 1, REF_MISSING, np.int32)
    prefix, sides = np.zeros(seq_length + 1, bool), np.zeros(seq_length + 1, np.int8)
    opening = [0]  # places of the inputs that open a document
    spans = _spans(stream, first + 1 if stream.packed else max(first, 0), last, first + 1)
    place = slice(0, 1)
    for span in spans:
        shard = stream.shards[span.task]
        place = slice(span.place, span.place + span.stop - span.begin)
        tokens[place] = shard.values[span.begin : span.stop]
        if stream.masks:
            mask = stream.masks[span.task].values[span.begin : span.stop]
            kinds, half = label_sides(mask, stream.last_turn), second_half(mask)
            sides[place], prefix[place] = kinds if stream.pairs else np.maximum(kinds, 0), mask == PREFIX
            if half and place.start + half > 1:  # the separator before it opens a document of its own
                opening.append(place.start + half - 1)
        # The end-of-sequence token of a document opens the next one, or the padding.
        if span.stop == span.document[1] and 0 < place.stop - 1 < seq_length:
            opening.append(place.stop - 1)
        if stream.sidecars:
            # Neighbours lie outside the sample, too, but in the same document.
            start = max(span.begin - stream.smoothing, span.document[0])
            around = slice(start, min(span.stop + stream.smoothing, span.document[1]))
            # What is missing has the largest value of all.
            place_there = slice(around.start - span.before, around.stop - span.before)
            units = np.maximum.reduce([sidecar.values[place_there] for sidecar in stream.sidecars[span.task]])
            if stream.smoothing:
                units = smoothed(units, stream.smoothing)
            reference[place] = units[span.begin - start : span.stop - start]
            if stream.complete:
                labels = sides[place] != 0 if stream.masks else np.ones(span.stop - span.begin, bool)
                require_known(reference[place], labels, shard, span.document[0])
    num_valid = place.stop - 1
    if plain and prefix.any():
        kept = ~prefix[: num_valid + 1]
        if not kept[0]:  # the text comes right after the separator that stands before its document
            tokens[0], kept[0] = stream.eos_id, True
        opening = list(dict.fromkeys((np.cumsum(kept) - 1)[opening].tolist()))
        num_valid = int(kept.sum()) - 1
        for array, padding in ((tokens, stream.eos_id), (reference, REF_MISSING), (sides, 0)):
            array[: num_valid + 1], array[num_valid + 1 :] = array[: len(kept)][kept], padding
    documents = tuple(stop - start for start, stop in pairwise([*opening, seq_length]))
    counted = sides[1:] != 0 if stream.masks else None
    return Sample(tokens, reference[1:], num_valid, documents, counted, sides[1:] if stream.pairs else None)
