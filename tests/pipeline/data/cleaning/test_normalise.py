import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.data.cleaning.normalise import Words, is_heldout, normalise, text_hash


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a\r\nb\rc\x0bd\u2028e", "a\nb\nc\nd\ne"),
        ("e\u0301", "é"),
        ("a\x00b\x07\ufeffc\ud800", "abc"),
        ("\n\n  code  \n\tmore\t\n \n", "  code\n\tmore"),
        (" \x01 \n", ""),
    ],
)
def test_normal_form(raw, expected):
    assert normalise(raw) == expected


@given(st.text(st.characters(codec=None), max_size=40))
def test_normalising_is_idempotent_and_gives_encodable_text(text):
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()


def test_the_hash_never_changes():
    # A changed value would move documents between train and held-out splits of existing runs.
    assert text_hash("Perdure, ä") == 17667675546957895464


def test_heldout_share_and_nesting():
    digests = [text_hash(f"document {number}") for number in range(20_000)]
    small = {digest for digest in digests if is_heldout(digest, 0.02)}
    large = {digest for digest in digests if is_heldout(digest, 0.1)}
    assert small < large
    assert len(small) / 20_000 == pytest.approx(0.02, abs=0.004)
    assert len(large) / 20_000 == pytest.approx(0.1, abs=0.008)


def test_words_without_blanks_are_characters():
    assert Words().word_tokenize("new text 新しい文 สวัสดี") == ["new", "text", *"新しい文", *"สวัสดี"]
