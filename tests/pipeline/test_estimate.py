"""Estimates of tokens from a sample: within a few percent in every script, bounded, and None where nothing can be told."""

import json

import pytest
from languages import LANGUAGES
from tokenizers import Tokenizer, models, pre_tokenizers

from perdure.pipeline.estimate import tokens_per_byte
from perdure.pipeline.recipe import JsonlReader, TextReader


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


def test_text_files_and_what_cannot_be_read(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a line of text\n" * 9)
    assert tokens_per_byte(TextReader(type="text", path=tmp_path), tokenizer) == 1
    (tmp_path / "a.jsonl").write_text("no JSON")
    assert tokens_per_byte(JsonlReader(type="jsonl", path=tmp_path), tokenizer) is None
    assert tokens_per_byte(TextReader(type="text", path=tmp_path), tmp_path / "none.json") is None
