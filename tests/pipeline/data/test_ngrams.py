"""n-grams by amount of text: unrelated text shares none in any script, planted text is found, and English is as it was."""

import json
import unicodedata

import numpy as np
import pytest
import xxhash
from datatrove.utils.text import simplify_text
from every_script import contaminated, decontamination, share_dropped
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import LANGUAGES

from perdure.pipeline.data import ngrams, scripts
from perdure.pipeline.data.cleaning.normalise import split_words
from perdure.pipeline.data.cleaning.step_inputs import cleaning_inputs
from perdure.pipeline.recipe import Decontaminate

EVERY_LANGUAGE = pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
QUESTION = "駅前の新しい店では毎年調べています。町の図書館は何時に開きますか"


@given(
    st.text(st.sampled_from("abcxyz éàñŁßй жαίΩ ’—“”.,;-#12\u0301 שָׁלוֹם مُحَمّ 한국어가나")), st.integers(2, 5)
)
@settings(max_examples=300, deadline=None)
def test_scripts_with_blanks_are_compared_as_in_version_0_1(text, n):
    text = unicodedata.normalize("NFC", text)
    words = split_words(simplify_text(text))
    hashes = [xxhash.xxh3_64_intdigest(word.encode()) for word in words]
    base = int(ngrams.BASE)
    joined = [
        sum(value * base ** (n - 1 - place) for place, value in enumerate(hashes[start : start + n])) % 2**64
        for start in range(len(words) - n + 1)
    ]
    assert not scripts.compared_by_amount(text)
    assert ngrams.simple_words(text) == words
    assert ngrams.ngram_hashes(text, n).tolist() == joined


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ガラスとカラス。", ["ガ", "ラ", "ス", "と", "カ", "ラ", "ス"]),
        ("ｶﾞﾗｽー", ["ｶ", "ﾞ", "ﾗ", "ｽ", "ー"]),
        ("「新しい」Python３を、", ["新", "し", "い", "python0", "を"]),
        ("ห้องน้ำ", ["ห้", "อ", "ง", "น้", "ำ"]),
        ("ប័ង\u200bថ្មី។", ["ប័", "ង", "ថ្", "មី"]),
        ("བོད་སྐད།", ["བོ", "ད", "སྐ", "ད"]),
        ("हिन्दी में। क़िला", ["हिन्दी", "में", "क़िला"]),
        ("وَقَالَ؟ في،", ["وقال", "في"]),
        ("Café’s Ёлка", ["cafe", "s", "елка"]),
    ],
)
def test_words_keep_the_marks_that_are_letters(text, words):
    assert ngrams.simple_words(text) == [unicodedata.normalize("NFD", word) for word in words]


def test_an_n_gram_is_an_amount_of_text():
    for text, length in (("漢" * 80, 26), ("か" * 80, 39), ("ก้" * 80, 44), ("word " * 80, 13)):
        assert len(ngrams.ngram_hashes(text, 13)) == 80 - length + 1
        assert len(ngrams.shown(ngrams.simple_words(text), 0, 13).split()) in (1, 13)
    words = ngrams.simple_words("使い方は Python と NumPy の文書にあります")
    assert ngrams.shown(words, 1, 6) == "い方は python と numpy の文書にありま"
    assert ngrams.ngram_hashes("", 13).tolist() == ngrams.ngram_hashes("漢" * 25, 13).tolist() == []


def test_short_sentences_without_blanks_are_looked_for_as_a_whole():
    n, hashes = ngrams.wanted_hashes(QUESTION, 13)
    assert (n, len(hashes) > 0) == (12, True)
    assert np.isin(hashes, ngrams.ngram_hashes(f"はい。{QUESTION}。ええ", 13, 12)).all()
    assert not len(ngrams.wanted_hashes("図書館は何時に開きますか", 13)[1])  # 5 words: anybody may ask
    assert not len(ngrams.wanted_hashes("eight words of English are no thirteen words", 13)[1])


@EVERY_LANGUAGE
def test_unrelated_documents_stay_and_planted_text_is_found(tmp_path, language):
    evaluation, unrelated, planted = contaminated(language)
    keeps = decontamination(evaluation, tmp_path)
    assert share_dropped(keeps, unrelated) < 0.02 and share_dropped(keeps, planted) == 1


def test_an_everyday_phrase_is_no_leak(tmp_path):
    keeps = decontamination([QUESTION], tmp_path)
    assert keeps("三つの椅子を毎年調べています。町の図書館は港の壁を直しました。")
    assert not keeps(f"三つの椅子を{QUESTION}港の壁を直しました。")


@pytest.mark.parametrize(
    ("text", "anew"),
    [
        ("What is the capital of the country that lies between the sea and the mountains?", False),
        ("Wie heißt der höchste Berg Europas – “Elbrus”? Ёлка, 한국어, مُحَمَّد", False),
        (QUESTION, True),
        ("हिन्दी में", True),
        ("ما هي عاصمة؟", True),
    ],
)
def test_only_what_is_found_otherwise_is_made_anew(tmp_path, text, anew):
    path = tmp_path / "probes.jsonl"
    path.write_text(json.dumps({"question": text}))
    inputs = cleaning_inputs(Decontaminate(type="decontaminate", files=[path]))
    assert (inputs.pop("n_grams_by", None) == "amount") is anew
    assert inputs.keys() == {"type", "n_grams", "files"}
