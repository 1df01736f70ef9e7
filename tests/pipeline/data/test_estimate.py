"""Estimates of tokens from a sample: within a few percent in every script, bounded, and None where nothing can be told."""

import base64
import bz2
import gzip
import json
import lzma

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from languages import LANGUAGES
from tokenizers import Tokenizer, models, pre_tokenizers

from perdure.pipeline.checks.sizes import BYTES_PER_TOKEN, estimated_tokens
from perdure.pipeline.data.estimate import COMPRESSION, tokens_per_byte, unpacked_bytes
from perdure.pipeline.data.read.unpack import zstd
from perdure.pipeline.recipe import JsonlReader, ParquetReader, TextReader


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bytes_alone = Tokenizer(models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.save(str(path))
    return path


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("language", ["eng", "jpn", "tha"])
def test_a_sample_tells_tokens_to_a_byte(tmp_path, tokenizer, language, escaped):
    texts = [LANGUAGES[language].document(seed) for seed in range(60)]
    rows = [json.dumps({"id": seed, "text": text}, ensure_ascii=escaped) for seed, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    rate = tokens_per_byte(JsonlReader(type="jsonl", path=tmp_path), tokenizer)
    exact = sum(len(text.encode()) for text in texts)  # tokens are bytes
    assert rate * (tmp_path / "a.jsonl").stat().st_size == pytest.approx(exact, rel=0.05)


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
    ".lz4": lambda data: pa.Codec("lz4").compress(data, asbytes=True),
}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("dense", [True, False])
def test_compressed_files_are_as_large_as_a_sample_unpacks_to(tmp_path, suffix, dense):
    """Text that hardly packs, or to a hundredth: a fixed factor is far off in both; small files are known exactly."""
    random = np.random.default_rng(0)
    data = base64.b85encode(random.bytes(6 << 20)) if dense else b"the same line again, and again\n" * 300_000
    files = []
    for number, part in enumerate((data, data[: len(data) // 50])):
        files.append(tmp_path / f"{number}.jsonl{suffix}")
        files[-1].write_bytes(PACKERS[suffix](part))
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(b"x" * 1000)
    reader = JsonlReader(type="jsonl", path=tmp_path)
    exact = len(data) + len(data) // 50
    off = 0.15 if suffix == ".bz2" else 0.05  # its blocks are large
    assert unpacked_bytes(reader, [*files, plain]) == pytest.approx(exact + 1000, rel=off)
    assert unpacked_bytes(reader, files[1:]) == len(data) // 50
    files[1].write_bytes(b"damaged")
    assert unpacked_bytes(reader, files[1:]) == COMPRESSION * 7


def test_of_parquet_the_text_alone_counts(tmp_path):
    texts = [LANGUAGES["deu"].document(seed) for seed in range(200)]
    rows = {"text": texts, "other": [text[::-1] for text in texts]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", compression="zstd")
    reader = ParquetReader(type="parquet", path=tmp_path)
    exact = sum(len(text.encode()) for text in texts)
    assert unpacked_bytes(reader, [tmp_path / "a.parquet"]) == pytest.approx(exact, rel=0.05)


def test_check_says_how_many_tokens_compressed_files_have(tmp_path):
    from tiny import tiny_recipe

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "' + b"a" * 80_000 + b'"}\n'))
    source = {"reader": {"type": "jsonl", "path": str(tmp_path)}}
    recipe = tiny_recipe(tmp_path / "out", sources={"a": source, "b": source})
    assert estimated_tokens(recipe, recipe.sources["a"]) == 80_013 // BYTES_PER_TOKEN


def test_text_files_and_what_cannot_be_read(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a line of text\n" * 9)
    assert tokens_per_byte(TextReader(type="text", path=tmp_path), tokenizer) == 1
    (tmp_path / "a.jsonl").write_text("no JSON")
    assert tokens_per_byte(JsonlReader(type="jsonl", path=tmp_path), tokenizer) is None
    assert tokens_per_byte(TextReader(type="text", path=tmp_path), tmp_path / "none.json") is None
