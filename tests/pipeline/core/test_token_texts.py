"""Texts of single tokens: characters are whole under byte-level, byte-fallback and sentencepiece-like tokenizers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import LANGUAGES
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from perdure.pipeline.core.token_texts import token_texts


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE({char: i for i, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "a": 257, "か": 258}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


TOKENIZERS = pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()], ids=["bytes", "fallback"])


@TOKENIZERS
@given(text=st.text(st.sampled_from("ab かがก้न🙂é\ufffd漢"), max_size=30))
@settings(max_examples=100, deadline=None)
def test_joined_they_are_the_text(tokenizer, text):
    tokens = tokenizer.encode(text).ids
    texts = token_texts(tokenizer.decode, tokens)
    assert len(texts) == len(tokens)
    if "\ufffd" not in text:
        assert "".join(texts) == text and [part for part in texts if part] == list(text)


@TOKENIZERS
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_script_shows_replacement_characters(tokenizer, language):
    tokens = tokenizer.encode(LANGUAGES[language].document(0)).ids
    assert "\ufffd" not in "".join(token_texts(tokenizer.decode, tokens))


def test_bytes_that_are_no_character_end_at_the_next_one():
    tokenizer = byte_level()
    head, rest = tokenizer.encode("漢").ids[:2], tokenizer.encode("ab").ids
    texts = token_texts(tokenizer.decode, head + rest)
    assert len(texts) == 4 and "".join(texts).endswith("ab") and "\ufffd" in texts[0]
