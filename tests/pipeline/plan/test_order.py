"""The order of documents: the external sort is numpy's, and every order is what its name says, whatever the memory."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tiny import write_data

from perdure.pipeline.core.sorting import sort_keys
from perdure.pipeline.plan.order import Order, count_documents, splitmix64, write_order

LENGTHS = [
    np.random.default_rng(shard).integers(1, 9, count).tolist() for shard, count in enumerate((40, 1, 59))
]
PERPLEXITY = np.random.default_rng(7).integers(2, 12, 100).astype(float)
"""With ties, and (below) two documents without any."""
PERPLEXITY[[5, 70]] = np.nan


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tasks = [[np.ones(length, np.uint16) for length in lengths] for lengths in LENGTHS]
    return write_data(tmp_path_factory.mktemp("data") / "a", tasks, [np.ones(3, np.uint16)], 300)


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scores")
    places = [(shard, sequence) for shard, lengths in enumerate(LENGTHS) for sequence in range(len(lengths))]
    shard, sequence = zip(*places, strict=True)
    table = pa.table({"shard": shard, "sequence": sequence, "perplexity": PERPLEXITY})
    parquet.write_table(table, directory / "docs.parquet", row_group_size=7)
    return directory


def written(tmp_path: Path, order: Order, rows: int) -> tuple[np.ndarray, np.ndarray]:
    files = tmp_path / "a.documents.npy", tmp_path / "a.ends.npy"
    write_order(order, *files, rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in files]
    documents, ends = map(np.load, files)
    assert documents.dtype == ends.dtype == np.int64
    assert ends.tolist() == np.cumsum(np.concatenate(LENGTHS)[documents]).tolist()
    return documents, ends


@given(st.lists(st.lists(st.integers(0, 9), max_size=20), max_size=6), st.integers(1, 30))
def test_the_external_sort_is_stable_argsort(parts, rows):
    keys = [np.array(part, float) for part in parts]
    with tempfile.TemporaryDirectory() as scratch:
        found = [*sort_keys(iter(keys), Path(scratch), rows)]
    assert all(len(part) <= max(rows, -(-sum(map(len, parts)) // rows)) for part in found)
    whole = np.concatenate([np.empty(0), *keys])
    assert np.concatenate([np.empty(0), *found]).tolist() == np.argsort(whole, kind="stable").tolist()


@pytest.mark.parametrize("rows", [3, 16, 1000])
def test_orders(data, scores, tmp_path, rows):
    def documents(kind, buckets=None):
        return written(tmp_path, Order(data, kind, buckets, scores, 5), rows)[0]

    assert documents("given").tolist() == list(range(100))
    last = [5, 70]  # without a perplexity
    ranked = PERPLEXITY.copy()
    ranked[last] = np.inf
    assert documents("easy_to_hard").tolist() == np.argsort(ranked, kind="stable").tolist()
    ranked[last] = -np.inf
    assert documents("hard_to_easy").tolist() == np.argsort(-ranked, kind="stable").tolist()
    assert sorted(documents("shuffled")) == list(range(100))
    assert documents("shuffled").tolist() == np.argsort(splitmix64(5, np.arange(100))).tolist()


@pytest.mark.parametrize("kind", ["easy_to_hard", "hard_to_easy"])
@pytest.mark.parametrize(("buckets", "rows"), [(1, 1000), (7, 16), (10, 1000), (100, 3), (1000, 1000)])
def test_buckets_rise_and_are_shuffled_inside(data, scores, tmp_path, kind, buckets, rows):
    plain, _ = written(tmp_path, Order(data, kind, None, scores, 5), rows)
    found, _ = written(tmp_path, Order(data, kind, buckets, scores, 5), rows)
    again, _ = written(tmp_path, Order(data, kind, buckets, scores, 5), 1000)
    assert found.tolist() == again.tolist()
    bucket = np.arange(100) * buckets // 100
    for number in np.unique(bucket):
        assert sorted(found[bucket == number]) == sorted(plain[bucket == number])
    other, _ = written(tmp_path, Order(data, kind, buckets, scores, 6), rows)
    assert (found.tolist() == plain.tolist()) == (buckets >= 100)
    assert (found.tolist() == other.tolist()) == (buckets >= 100)


def test_counts(data):
    assert count_documents(data) == (100, sum(map(sum, LENGTHS)))


def test_mix_is_splitmix64():
    # The first numbers of the published generator (Vigna's splitmix64.c) from state 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert splitmix64(1234567, np.arange(4)).tolist() == expected
