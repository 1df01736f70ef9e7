"""n-grams of words of any script: what is compared when evaluation data is looked for (Brown et al. 2020, appendix C).

A word is a run of non-blanks. Of scripts that are written without blanks between words, a Han character is half a word,
kana a third, and any other character (Thai, Khmer and so on, with its marks) 0.3. An n-gram is the shortest run that
amounts to n words: 13 words of English, 26 Han characters, some 30 characters of Japanese, 44 letters of Thai. Under that,
unrelated text of the same patterns shares n-grams as often as in English. (Translated messages of programs have 1.5 Han
characters to a word of English in Chinese, 0.6 and 2.2 kana in Japanese, 2.3 to 3.3 letters in Thai, Khmer and Burmese.)
"""

import unicodedata
from functools import lru_cache

import numpy as np
import regex
import xxhash
from datatrove.utils.text import TextNormConfig, simplify_text

from perdure.pipeline.data.scripts import (
    ACCENTS,
    HAN_SCRIPTS,
    KANA_SCRIPTS,
    OTHER_SCRIPTS,
    PUNCTUATION,
    WITHOUT_BLANKS,
)

BASE = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier of the rolling hash, odd, so that every word of an n-gram counts."""
WORD, HAN, KANA, LETTER = 30, 15, 10, 9
"""Sizes: of a run of non-blanks, and of a character of a script without blanks."""
MIN_WORDS = 8
"""A shorter text is not looked for: it would be found anywhere (the lower bound of Brown et al. 2020, appendix C)."""

_WORDS = regex.compile(rf"[{WITHOUT_BLANKS}]\p{{M}}*|[^\s{WITHOUT_BLANKS}]+")
_SIZES = [
    (regex.compile(f"[{part}]"), size)
    for part, size in ((HAN_SCRIPTS, HAN), (KANA_SCRIPTS, KANA), (OTHER_SCRIPTS, LETTER))
]
_WITH_MARKS = TextNormConfig(norm_unicode_diacritics=False)


def ngram_hashes(text: str, *lengths: int) -> np.ndarray:
    """Hashes of a text's n-grams of some lengths in words, uint64, one for every place that one begins at."""
    words = simple_words(text)
    hashes, sizes = word_hashes(words), word_sizes(words)
    return np.concatenate([joined_hashes(hashes, sizes, n) for n in lengths])


def wanted_hashes(text: str, n: int) -> tuple[int, np.ndarray]:
    """Length in words and hashes, uint64, of the n-grams to look for of an evaluation text.

    They are `n`, or all that a shorter text has, from `MIN_WORDS` on, if some of it is written without blanks: whole sentences
    are that short there. Of others there is nothing to look for.
    """
    words = simple_words(text)
    sizes = word_sizes(words)
    amount = int(sizes.sum()) // WORD
    if MIN_WORDS <= amount < n and sizes.min() < WORD:
        n = amount
    return n, joined_hashes(word_hashes(words), sizes, n)


def simple_words(text: str) -> list[str]:
    """Words as they are compared, and characters of scripts without blanks: lower case, digits as 0, neither punctuation nor
    accents."""
    if text.isascii():
        return simplify_text(text).split()
    text = unicodedata.normalize("NFD", simplify_text(text, _WITH_MARKS))
    return _WORDS.findall(PUNCTUATION.sub(" ", ACCENTS.sub("", text)))


def word_sizes(words: list[str]) -> np.ndarray:
    """Size of each of `simple_words`, int64 [words], in `WORD`ths of a word."""
    return np.fromiter((_size(word[0]) for word in words), np.int64, len(words))


@lru_cache(maxsize=1 << 14)
def _size(character: str) -> int:
    return next((size for part, size in _SIZES if part.match(character)), WORD)


def word_hashes(words: list[str]) -> np.ndarray:
    """Hash of every word, uint64 [words]."""
    return np.array([xxhash.xxh3_64_intdigest(word.encode()) for word in words], np.uint64)


def joined_hashes(hashes: np.ndarray, sizes: np.ndarray, n: int) -> np.ndarray:
    """Hashes of n-grams from those of words.

    Args:
        hashes: uint64 [words].
        sizes: `word_sizes`, int64 [words].
        n: Words that an n-gram amounts to.

    Returns:
        uint64, of the n-gram that begins at each word, as far as there are n words from there on: for w_1..w_m
        sum_i h_i BASE^(m - i) mod 2^64, m being n where no word is a character.
    """
    lengths = _lengths(sizes, n)
    if not len(lengths):
        return np.empty(0, np.uint64)
    total = np.zeros(len(lengths), np.uint64)
    padded = np.concatenate([hashes, np.zeros(lengths.max(), np.uint64)])
    for place in range(lengths.max()):
        total = np.where(place < lengths, total * BASE + padded[place : place + len(total)], total)
    return total


def shown(words: list[str], first: int, n: int) -> str:
    """The n-gram that begins at a word, as readable text."""
    sizes = word_sizes(words)[first:]
    chosen = zip(words[first:], sizes[: _lengths(sizes, n)[0]])
    text = "".join(f" {word} " if size == WORD else word for word, size in chosen)
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _lengths(sizes: np.ndarray, n: int) -> np.ndarray:
    """Number of words in the n-gram that begins at each word, int64, as long as there are enough."""
    ends = np.cumsum(sizes)
    stops = np.searchsorted(ends, ends - sizes + WORD * n) + 1
    return (stops - np.arange(len(sizes)))[stops <= len(sizes)]
