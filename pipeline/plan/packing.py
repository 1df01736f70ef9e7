"""Packing of whole documents into samples, in place of cutting a stream of them into equal runs.

Documents are put into samples of `seq_length` labels, first come first served in the source's order (`next_fit`: a document
that does not fit any more begins the next sample) or the longest first, each where it leaves the least room (`best_fit`:
best-fit decreasing; Ding et al. 2024, arXiv 2404.10830). What is left of a sample is padding. A document longer than a sample
is cut into pieces of a sample each and a rest, or dropped.

The result has the form of any other order (`order.py`): entries and where each ends in the stream. An entry of document -1 is
padding; every multiple of `seq_length` is the end of an entry, so that sample i still is labels [i S, (i + 1) S).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.recipe import Instruct, MixtureSource, Preference, Recipe

Packing = tuple[str, str]
"""`packing` and `overlong` of a place in a mixture."""
PADDING = -1
"""Number of the document that an entry of padding has."""


@dataclass(frozen=True)
class Packed:
    """What packing came to.

    Attributes:
        samples: Samples of an epoch.
        documents: Documents in them.
        tokens: Their tokens, all of which are labels of one sample.
        cut_documents: Those in several samples, since they are longer than one.
        dropped_documents: Those left out for that.
        dropped_tokens: Their tokens.
    """

    samples: int
    documents: int
    tokens: int
    cut_documents: int
    dropped_documents: int
    dropped_tokens: int

    def padding(self, seq_length: int) -> float:
        """Share of the labels of an epoch that are padding."""
        return 1 - self.tokens / (self.samples * seq_length) if self.samples else 0.0

    def described(self) -> dict[str, int]:
        """What the description of a stream in a plan says of it."""
        found = asdict(self)
        return {"samples_per_epoch": found.pop("samples"), **found}


def packing_of(recipe: Recipe, domain: str, member: MixtureSource) -> Packing | None:
    """How a place in a mixture packs whole documents; None if it cuts a stream of them."""
    chats = recipe.sources[source_of(domain)].has_conversations
    usual = ("best_fit" if member.order == "shuffled" else "next_fit") if chats else "stream"
    packing = member.packing or usual
    return None if packing == "stream" else (packing, member.overlong or ("drop" if chats else "cut"))


def labels_of(recipe: Recipe, name: str, domain: str) -> str | None:
    """What counts of a source's conversations in a version: `last`, the last turns alone; `pairs`, both answers; None: all that
    its mask leaves."""
    objective, source = recipe.versions[name].objective, recipe.sources[source_of(domain)]
    if isinstance(objective, Preference):
        return "pairs" if source.has_pairs else None
    last = isinstance(objective, Instruct) and objective.train_on == "last"
    return "last" if source.has_conversations and last else None


def refuse_long(where: str, entry: dict, size: int) -> None:
    """Refuses pairs that packing would drop where nobody asked for that.

    Raises:
        PerdureError: If there are some.
    """
    if dropped := entry["dropped_documents"]:
        raise PerdureError(
            f"{where}: {dropped:,} pairs are longer than training.seq_length = {size:,}, both answers with the prompt; raise "
            f"it, or leave them out: `overlong: drop`"
        )


def next_fit(lengths: np.ndarray, size: int) -> np.ndarray:
    """The sample of each item when they are packed in their order, int64 [items], not falling.

    Args:
        lengths: int [items], none above `size`.
        size: Labels of a sample.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    # For an item that begins a sample, the first that does not fit into it.
    following = np.searchsorted(ends, ends - lengths + size, side="right").tolist()
    found, first = np.zeros(len(lengths), np.int64), 0
    while first < len(lengths):
        first = following[first]
        if first < len(lengths):
            found[first] = 1
    return np.cumsum(found)


def best_fit(counts: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Packs items of given lengths, the longest first, each into the sample with the least room that it fits into.

    Items of a length are alike, so whole runs of them are placed at once: the time grows with the number of different lengths.

    Args:
        counts: int [size + 1], how many items there are of each length.
        size: Labels of a sample.

    Yields:
        By falling length, a length and the sample of each of its items, int64 [counts[length]].
    """
    room: dict[int, list[np.ndarray]] = {}  # samples by what is left of them
    left: list[int] = []  # the keys of `room`, ascending
    samples = 0

    def put(space: int, numbers: np.ndarray) -> None:
        if space and len(numbers):
            if space not in room:
                insort(left, space)
            room.setdefault(space, []).append(numbers)

    for length in np.flatnonzero(counts)[::-1].tolist():
        waiting, found = int(counts[length]), []
        while waiting:
            place = bisect_left(left, length)
            if place < len(left):
                space = left[place]
                numbers = room[space].pop()
                if not room[space]:
                    del room[space], left[place]
            else:
                space, more = size, -(-waiting // (size // length))
                numbers = np.arange(samples, samples + more)
                samples += more
            each = space // length  # one after another until it is full: it stays the one with the least room
            full = min(len(numbers), waiting // each)
            found.append(numbers[:full].repeat(each))
            put(space - each * length, numbers[:full])
            waiting -= full * each
            if full < len(numbers):
                found.append(numbers[full : full + 1].repeat(waiting))
                put(space - waiting * length, numbers[full : full + 1])
                put(space, numbers[full + 1 :])
                waiting = 0
        yield length, np.concatenate(found)


def count_samples(counts: np.ndarray, size: int) -> int:
    """Samples that `best_fit` makes of items of these lengths."""
    return max((int(samples.max()) + 1 for _, samples in best_fit(counts, size)), default=0)


def split_counts(counts: np.ndarray, size: int, overlong: str) -> np.ndarray:
    """Numbers of items by length, int64 [size + 1], of documents by length: those longer than `size` are cut, or dropped."""
    items = np.zeros(size + 1, np.int64)
    items[: min(len(counts), size + 1)] = counts[: size + 1]
    for length in (np.flatnonzero(counts[size + 1 :]) + size + 1).tolist() if overlong == "cut" else ():
        items[size] += counts[length] * (length // size)
        items[length % size] += counts[length]
    items[0] = 0
    return items


def pack_order(documents: Path, ends: Path, tails: Path, size: int, how: Packing) -> Packed:
    """Rewrites the order of a source's documents as one of packed samples, in memory: about 100 bytes a document.

    Args:
        documents: As `order.write_order` wrote it; receives the document of each entry, int64 `.npy`.
        ends: Likewise; receives where each entry ends in the stream.
        tails: Receives the tokens of its document behind each entry, int64 `.npy`, if documents were cut.
        size: Labels of a sample.
        how: `next_fit` or `best_fit`; and `cut` or `drop`, what becomes of documents longer than a sample.
    """
    numbers, stops = np.load(documents), np.load(ends)
    lengths = np.diff(stops, prepend=0)
    long = lengths > size
    cut = how[1] == "cut"
    dropped = (0, 0) if cut else (int(long.sum()), int(lengths[long].sum()))
    if not cut:
        numbers, lengths = numbers[~long], lengths[~long]
    document, begins, sizes = cut_pieces(lengths, size)
    samples = next_fit(sizes, size) if how[0] == "next_fit" else _best_fit(sizes, size)
    order = np.argsort(samples, kind="stable")  # within a sample, in the source's order
    samples, document, sizes = samples[order], document[order], sizes[order]
    behind = lengths[document] - begins[order] - sizes
    number = int(samples[-1]) + 1 if len(samples) else 0
    first = np.searchsorted(samples, np.arange(number))  # item of each sample
    ends_of = np.cumsum(sizes)
    ends_of += samples * size - (ends_of - sizes)[first][samples]
    # Padding stands before the first item of the next sample; behind the last one the stream is at its end.
    after = np.flatnonzero(ends_of[first[1:] - 1] < np.arange(1, number) * size) + 1 if number else first
    _save(documents, np.insert(numbers[document], first[after], PADDING))
    _save(ends, np.insert(ends_of, first[after], after * size))
    tails.unlink(missing_ok=True)
    if behind.any():
        _save(tails, np.insert(behind, first[after], 0))
    return Packed(number, len(numbers), int(lengths.sum()), int(long.sum()) if cut else 0, *dropped)


def cut_pieces(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces of at most `size` tokens: each one's document, where it begins in it, and its tokens, int64 [pieces]."""
    pieces = -(-lengths // size)
    document = np.repeat(np.arange(len(lengths)), pieces)
    begins = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * size
    return document, begins, np.minimum(lengths[document] - begins, size)


def _best_fit(sizes: np.ndarray, size: int) -> np.ndarray:
    """The sample of each item under `best_fit`, int64 [items]; of equal lengths, earlier items are placed first."""
    found, by_length = np.empty(len(sizes), np.int64), np.argsort(-sizes, kind="stable")
    place = 0
    for _, samples in best_fit(np.bincount(sizes, minlength=size + 1), size):
        found[by_length[place : place + len(samples)]] = samples
        place += len(samples)
    return found


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.packing.npy")
    np.save(temporary, array)
    temporary.replace(path)
