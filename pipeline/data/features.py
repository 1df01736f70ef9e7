"""Text features for scikit-learn, and readers of small files of texts to learn from."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.cleaning.normalise import WORD, is_heldout, normalise, text_hash
from perdure.pipeline.data.read.inputs import is_json_lines
from perdure.pipeline.data.read.readers import CleanedDocuments
from perdure.pipeline.data.read.texts import ARRAY, json_lines, plain_lines
from perdure.pipeline.data.scripts import WITHOUT_BLANKS

CHARS = 10_000
"""Characters of a document that classifiers and clusters look at."""
SAMPLE = 20_000
"""Documents of a source that they learn from: those with the lowest hashes."""
HASHED_FEATURES = 1 << 18
"""Buckets of the classifiers' n-grams."""
NO_LETTERS = re.compile(r"[\W\d_]+")
PUNCTUATION = re.compile(r"[^\w\s]+")
# Vowel signs, tones, points: of the letter before, as Python's `\w` does not say. Variation selectors change no word.
_MARKS = regex.compile(
    r"(?V1)[[\p{Mn}\p{Mc}]--\p{Variation_Selector}][[\p{Mn}\p{Mc}\u200c\u200d]--\p{Variation_Selector}]*"
)
_JOINERS = re.compile("[\u200c\u200d]")
_RUNS = regex.compile(rf"(?:[{WITHOUT_BLANKS}]\p{{M}}*)+|[^\s{WITHOUT_BLANKS}]+")
_CHARACTERS = regex.compile(rf"[{WITHOUT_BLANKS}]\p{{M}}*")
# Single letters of Arabic and Hebrew are what points leave of a word.
_CUT = regex.compile(rf"[{WITHOUT_BLANKS}\p{{InSC=Consonant}}]|^[\p{{Arabic}}\p{{Hebrew}}]$")
_HAN = regex.compile(r"\p{Han}")


def letters(text: str) -> list[str]:
    """Lower-case words without punctuation and digits, of two letters or more where words have several.

    Of runs without blanks (Chinese, Japanese, Thai and so on) they are pairs of neighbouring characters, each with its marks,
    as in Lucene's CJK analyzer; a Han character that stands alone is a word, too.
    """
    text = _replaced(NO_LETTERS, lambda _: " ", text.lower())
    if text.isascii():
        return [word for word in text.split() if len(word) > 1]
    words = []
    for run in _RUNS.findall(text):
        characters = _CHARACTERS.findall(run)
        if len(characters) > 1:
            words += [first + second for first, second in pairwise(characters)]
        elif _HAN.match(run) or (not characters and (len(run) > 1 or not run.isascii())):
            words.append(run)
    return words


def uni_and_bigrams(text: str) -> list[str]:
    """Lower-case words and runs of punctuation, and pairs of neighbours."""
    words = WORD.findall(_replaced(PUNCTUATION, lambda run: f" {run} ", text.lower()))
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def cut_in_version_0_1(word: str) -> bool:
    """Whether a cluster's top word shows that version 0.1 cut its text at marks or into characters."""
    return _CUT.search(word) is not None


def _replaced(pattern: re.Pattern[str], by: Callable[[str], str], text: str) -> str:
    """Replaces what a pattern finds, but for marks that belong to the letter before, whose joiners go."""

    def replace(found: re.Match[str]) -> str:
        run, start = found[0], found.start()
        marks = _MARKS.match(run) if start and text[start - 1].isalpha() else None
        if not marks:
            return by(run)
        rest = run[marks.end() :]
        return _JOINERS.sub("", marks[0]) + (by(rest) if rest else "")

    return pattern.sub(replace, text)


def start_of(text: str) -> list[str]:
    """Uni- and bigrams of a document's first `CHARS` characters."""
    return uni_and_bigrams(text[:CHARS])


def classifier() -> Any:
    """A pipeline of scikit-learn: hashed uni- and bigrams, of length 1, into logistic regression by gradient descent."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    features = HashingVectorizer(analyzer=start_of, n_features=HASHED_FEATURES, alternate_sign=False)
    return make_pipeline(features, SGDClassifier(loss="log_loss", alpha=1e-5, random_state=0))


def sample_texts(directory: Path, fraction_skipped: float, size: int = SAMPLE) -> list[str]:
    """Cleaned texts with the lowest hashes, in hash order, among those that are not held out.

    Args:
        directory: Cleaned documents of a source.
        fraction_skipped: Documents whose hash is below this fraction are passed over.
        size: How many, at most.
    """
    lowest: list[tuple[int, str]] = []
    for document in CleanedDocuments(str(directory)).all():
        digest = text_hash(document.text)
        if not is_heldout(digest, fraction_skipped):
            lowest.append((digest, document.text[:CHARS]))
        if len(lowest) == 2 * size:
            lowest = sorted(lowest)[:size]
    return [text for _, text in sorted(lowest)[:size]]


def read_rows(path: Path, *fields: str) -> Iterator[tuple[str, ...]]:
    """String fields of a file's JSON lines, the first one normalised; of text files, if one is asked for, every line.

    Raises:
        PerdureError: If a line is not JSON or lacks a field, or the file is not what its name says.
    """
    wanted = " and ".join(f"`{field}`" for field in fields)
    if not is_json_lines(path):
        if len(fields) > 1:
            raise PerdureError(f"{path}: should be JSON lines with {wanted}, and `.jsonl`")
        yield from ((normalise(line),) for line in plain_lines(path))
        return
    for number, row in json_lines(path):
        if isinstance(row, list):
            raise PerdureError(f"{path}: line {number} is {ARRAY}, with {wanted}")
        values = [row.get(field) for field in fields] if isinstance(row, dict) else []
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) < len(fields):
            raise PerdureError(f"{path}: line {number} should be JSON with {wanted} as text")
        yield (normalise(texts[0]), *texts[1:])
