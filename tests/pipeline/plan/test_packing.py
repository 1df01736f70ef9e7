"""Whole documents in samples: next-fit and best-fit by hand, by definition, and as entries of a stream."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.pipeline.plan.packing import PADDING, best_fit, count_samples, next_fit, pack_order, split_counts

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=60)


def pack(lengths, size, packing="next_fit", overlong="drop", numbers=None):
    """Entries (document, length, tokens of it behind) by sample, and what was counted."""
    numbers = np.arange(len(lengths)) if numbers is None else np.array(numbers)
    with TemporaryDirectory() as directory:
        documents, ends, tails = (Path(directory) / f"{name}.npy" for name in ("documents", "ends", "tails"))
        np.save(documents, numbers)
        np.save(ends, np.cumsum(lengths))
        told = pack_order(documents, ends, tails, size, (packing, overlong))
        entries, stops = np.load(documents).tolist(), np.load(ends).tolist()
        behind = np.load(tails).tolist() if tails.exists() else [0] * len(entries)
        assert len(list(Path(directory).iterdir())) == 2 + tails.exists()
    samples: list[list] = [[] for _ in range(told.samples)]
    begin = 0
    for document, stop, tail in zip(entries, stops, behind, strict=True):
        assert begin // size == (stop - 1) // size, "an entry lies in one sample"
        samples[begin // size].append((document, stop - begin, tail))
        begin = stop
    return samples, told


def test_four_documents_by_hand():
    """Lengths 3, 5, 4, 2 into 8: (3, 5), (4, 2 and two of padding)."""
    samples, told = pack([3, 5, 4, 2], 8)
    # The last sample's padding lies behind the end of the stream.
    assert samples == [[(0, 3, 0), (1, 5, 0)], [(2, 4, 0), (3, 2, 0)]]
    assert (told.samples, told.documents, told.tokens, told.padding(8)) == (2, 4, 14, 2 / 16)
    samples, _ = pack([3, 4, 4, 2, 8, 1], 8)
    pad = (PADDING, 1, 0)
    assert samples == [
        [(0, 3, 0), (1, 4, 0), pad],
        [(2, 4, 0), (3, 2, 0), (PADDING, 2, 0)],
        [(4, 8, 0)],
        [(5, 1, 0)],
    ]


def test_best_fit_fills_what_next_fit_leaves():
    """Lengths 5, 5, 3, 3, 2, 2, 4 into 8: 8 = 5 + 3 twice, and 4 + 2 + 2; next-fit needs a sample more."""
    samples, told = pack([5, 5, 3, 3, 2, 2, 4], 8, "best_fit")
    assert [[length for _, length, _ in sample] for sample in samples] == [[5, 3], [5, 3], [2, 2, 4]]
    assert told.samples == 3 and told.padding(8) == 0
    assert pack([5, 5, 3, 3, 2, 2, 4], 8)[1].samples == 4
    # Within a sample documents stand in the source's order, whichever was placed first.
    assert [document for document, *_ in pack([3, 5], 8, "best_fit")[0][0]] == [0, 1]


@pytest.mark.parametrize("packing", ["next_fit", "best_fit"])
def test_documents_longer_than_a_sample_are_dropped_or_cut(packing):
    lengths = [19, 8, 5, 9]
    samples, told = pack(lengths, 8, packing)
    assert (told.dropped_documents, told.dropped_tokens, told.cut_documents, told.tokens) == (2, 28, 0, 13)
    assert sorted(entry[0] for sample in samples for entry in sample) in ([1, 2], [PADDING, 1, 2])
    samples, told = pack(lengths, 8, packing, "cut")
    assert (told.dropped_documents, told.dropped_tokens, told.cut_documents, told.tokens) == (0, 0, 2, 41)
    entries = [entry for sample in samples for entry in sample if entry[0] != PADDING]
    assert sorted(entries) == [(0, 3, 0), (0, 8, 3), (0, 8, 11), (1, 8, 0), (2, 5, 0), (3, 1, 0), (3, 8, 1)]


def test_nothing_fits():
    samples, told = pack([9, 10], 8)
    assert samples == [] and (told.samples, told.dropped_documents, told.padding(8)) == (0, 2, 0.0)


@given(SIZES, st.integers(1, 14), st.sampled_from(["next_fit", "best_fit"]), st.sampled_from(["cut", "drop"]))
@settings(max_examples=150, deadline=None)
def test_every_label_is_in_one_sample(lengths, size, packing, overlong):
    """And a document that fits into a sample is in one only; labels of an epoch are all but those dropped."""
    rng = np.random.default_rng(size)
    numbers = rng.permutation(len(lengths))
    samples, told = pack(lengths, size, packing, overlong, numbers)
    of = dict(zip(numbers.tolist(), lengths))
    labels: dict[int, list[int]] = {}
    for sample in samples:
        entries = [entry for entry in sample if entry[0] != PADDING]
        assert entries == sample[: len(entries)] and len(sample) <= len(entries) + 1, "padding comes last"
        assert sum(length for _, length, _ in entries) <= size
        for document, length, tail in entries:
            stop = of[document] - tail
            labels.setdefault(document, []).extend(range(stop - length, stop))
    expected = {
        document: list(range(length))
        for document, length in of.items()
        if length <= size or overlong == "cut"
    }
    assert {document: sorted(own) for document, own in labels.items()} == expected
    assert told.tokens == sum(map(len, expected.values())) == sum(lengths) - told.dropped_tokens
    in_one = [document for document, length in of.items() if length <= size]
    for document in in_one:
        assert sum(document == entry[0] for sample in samples for entry in sample) == 1
    counts = split_counts(np.bincount(lengths), size, overlong)
    if packing == "best_fit":
        assert count_samples(counts, size) == told.samples


@given(SIZES, st.integers(12, 20))
@settings(max_examples=150, deadline=None)
def test_next_fit_is_its_definition(lengths, size):
    expected, sample, used = [], 0, 0
    for length in lengths:
        if used + length > size:
            sample, used = sample + 1, 0
        used += length
        expected.append(sample)
    assert next_fit(np.array(lengths), size).tolist() == expected


@given(SIZES, st.integers(12, 20))
@settings(max_examples=150, deadline=None)
def test_best_fit_is_its_definition(lengths, size):
    """What is left of the samples, as if items were placed one by one."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in room if space >= length]
        if fitting:
            room.remove(min(fitting))
        room.append((min(fitting) if fitting else size) - length)
    used: dict[int, int] = {}
    for length, samples in best_fit(np.bincount(lengths, minlength=size + 1), size):
        for sample in samples.tolist():
            used[sample] = used.get(sample, 0) + length
    assert sorted(size - total for total in used.values()) == sorted(room)
    assert sorted(used) == list(range(len(room)))


def test_a_hundred_thousand_documents_are_packed_densely():
    """Log-normal lengths, as of web text: best-fit leaves less than a hundredth, and no document is cut that fits."""
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 1.2, 100_000), 1, None).astype(int)
    _, told = pack(lengths, 2048, "best_fit", "cut")
    assert told.padding(2048) < 0.01 < pack(lengths, 2048, "next_fit", "cut")[1].padding(2048)
    assert told.cut_documents == (lengths > 2048).sum()
