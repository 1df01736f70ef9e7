"""Shards: Megatron's own writer is read by ours, and damage is refused in one line."""

import numpy as np
import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.shards import open_shard


def write(prefix, documents, dtype):
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_document(np.array(document), [len(document)])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32])
def test_reads_what_megatron_writes(tmp_path, dtype):
    documents = [[1, 2, 3], [4], [250, 6, 7, 8]]
    write(tmp_path / "00000", documents, dtype)
    shard = open_shard(tmp_path / "00000")
    assert shard.values.dtype == dtype
    assert shard.lengths.tolist() == [3, 1, 4]
    assert shard.values.tolist() == [1, 2, 3, 4, 250, 6, 7, 8]
    assert [shard.start(number) for number in range(3)] == [0, 3, 4]


def test_a_shard_without_documents(tmp_path):
    write(tmp_path / "empty", [], np.uint16)
    shard = open_shard(tmp_path / "empty")
    assert len(shard.values) == len(shard.lengths) == 0


@pytest.fixture
def shard(tmp_path):
    write(tmp_path / "00000", [[1, 2, 3], [4, 5]], np.uint16)
    return tmp_path / "00000"


@pytest.mark.parametrize("suffix", ["bin", "idx"])
@pytest.mark.parametrize("lost", [1, 5])
def test_a_truncated_shard_is_refused(shard, suffix, lost):
    path = shard.with_suffix(f".{suffix}")
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(PerdureError, match="truncated") as refused:
        open_shard(shard)
    assert str(path) in str(refused.value)
    assert "run the data stage again" in str(refused.value)


def test_a_shard_with_more_bytes_than_its_index_says_is_refused(shard):
    with shard.with_suffix(".bin").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(PerdureError, match=r"00000\.bin"):
        open_shard(shard)


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_missing_file_is_named(shard, suffix):
    path = shard.with_suffix(f".{suffix}")
    path.unlink()
    with pytest.raises(PerdureError, match="missing") as refused:
        open_shard(shard)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 100])
def test_a_file_that_is_no_index_is_refused(shard, content):
    shard.with_suffix(".idx").write_bytes(content)
    with pytest.raises(PerdureError, match="not a Megatron index"):
        open_shard(shard)
