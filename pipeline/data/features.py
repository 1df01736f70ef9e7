"""Texts as features for scikit-learn, and small files of texts to learn from."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from perdure.pipeline.data.normalise import WORD, is_heldout, normalise, text_hash
from perdure.pipeline.data.readers import CleanedDocuments, open_lines
from perdure.pipeline.errors import PerdureError

CHARS = 10_000
"""Characters of a document that classifiers and clusters look at."""
SAMPLE = 20_000
"""Documents of a source that they learn from: those with the lowest hashes."""
HASHED_FEATURES = 1 << 18
"""Buckets of the classifiers' n-grams."""
NO_LETTERS = re.compile(r"[\W\d_]+")
PUNCTUATION = re.compile(r"([^\w\s]+)")


def letters(text: str) -> list[str]:
    """Lower-case words without punctuation and digits, of two letters or more where words have several."""
    words = WORD.findall(NO_LETTERS.sub(" ", text.lower()))
    return [word for word in words if len(word) > 1 or not word.isascii()]


def uni_and_bigrams(text: str) -> list[str]:
    """Lower-case words and runs of punctuation, and pairs of neighbours."""
    words = WORD.findall(PUNCTUATION.sub(r" \1 ", text.lower()))
    return words + [f"{first} {second}" for first, second in pairwise(words)]


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
    """Cleaned texts with the lowest hashes, in their order, among those that are not held out.

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
    """String fields of a file's JSON lines, the first one normalised; other files: one text a line.

    Raises:
        PerdureError: If a line is not JSON or lacks a field.
    """
    for number, line in enumerate(open_lines(str(path)), 1):
        if not line.strip():
            continue
        if ".jsonl" not in path.suffixes:
            yield (normalise(line.decode(errors="replace")),)
            continue
        try:
            row = orjson.loads(line)
            values = [row[field] for field in fields]
            assert all(isinstance(value, str) for value in values)
        except (orjson.JSONDecodeError, KeyError, TypeError, AssertionError):
            wanted = " and ".join(f"`{field}`" for field in fields)
            raise PerdureError(f"{path}: line {number} should be JSON with {wanted} as text") from None
        yield (normalise(values[0]), *values[1:])
