"""Characters that a tokenizer has no token for, whether it leaves them out or makes them the unknown token."""

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perdure.pipeline.core.errors import PerdureError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

NOTHING_LEFT = 0.9
"""Share of a document's characters without tokens from which on the document is dropped."""
BLOCK = 64
"""Code points of which one is asked for; a step through the blocks meets every byte that UTF-8 has."""
ASSIGNED = 0x34000
"""Code points from here on are tags, or for private use, or have no meaning yet."""
UNKNOWN = "<perdure:unknown>"
"""Stands for what a BPE model without an unknown token leaves out."""


@dataclass(frozen=True)
class Gaps:
    """Finds the characters that have no token.

    Attributes:
        tokenizer: Cuts texts as the tokenizer in question does, but has an unknown token for what that leaves out.
        unknown: Id of the unknown token; None if there is none.
    """

    tokenizer: "Tokenizer"
    unknown: int | None

    def missing(self, texts: list[str]) -> list[int]:
        """For each text, how many of its characters have no token; blanks, marks and controls are not counted."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._missing(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def _missing(self, text: str, encoding: "Encoding") -> int:
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        unknown = np.array(encoding.ids) == self.unknown
        lost = _covered(offsets[unknown], len(text)) | ~_covered(offsets[~unknown], len(text))
        return sum(_is_visible(text[place]) for place in np.flatnonzero(lost).tolist())


def gaps(tokenizer: "Tokenizer") -> Gaps:
    """Returns a `Gaps` for a tokenizer."""
    from tokenizers import Tokenizer

    tree = json.loads(tokenizer.to_str())
    model = tree["model"]
    if model["type"] == "Unigram":
        return Gaps(tokenizer, model["unk_id"])
    if model["type"] != "BPE" or model["unk_token"] is not None:
        return Gaps(tokenizer, tokenizer.token_to_id(model["unk_token"]))
    unknown = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    model["vocab"][UNKNOWN], model["unk_token"] = unknown, UNKNOWN
    twin = Tokenizer.from_str(json.dumps(tree))
    twin.encode_special_tokens = tokenizer.encode_special_tokens
    return Gaps(twin, unknown)


def loses_characters(tokenizer: "Tokenizer", directory: Path) -> bool:
    """Whether a tokenizer has no token for some characters of the world's scripts.

    Raises:
        PerdureError: If such a character stops it.
    """
    found, characters = gaps(tokenizer), sample_characters()
    for start in range(0, len(characters), BLOCK):
        try:
            encodings = found.tokenizer.encode_batch(
                characters[start : start + BLOCK], add_special_tokens=False
            )
        except Exception as error:  # the library raises bare exceptions
            raise PerdureError(
                f"{directory}: a character that is not in its vocabulary stops it ({error}); give its model an unknown "
                "token that is in the vocabulary"
            ) from None
        # A blank that is put before a text may stand for its first character, so each stands there twice.
        for encoding in encodings:
            if found.unknown in encoding.ids or not any(end == 2 for _, end in encoding.offsets):
                return True
    return False


@cache
def sample_characters() -> list[str]:
    """Characters of every script, each twice: all visible ones of ASCII, and one of each block."""
    found = [2 * chr(code) for code in range(0x80) if _is_visible(chr(code))]
    for number, start in enumerate(range(0x80, ASSIGNED, BLOCK)):
        block = (chr(start + (number + place) % BLOCK) for place in range(BLOCK))
        found += next(([2 * character] for character in block if _is_visible(character)), [])
    return found


def count_visible(text: str) -> int:
    """Characters of a text that are not blank."""
    return sum(map(len, text.split()))


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNPS"


def _covered(offsets: np.ndarray, length: int) -> np.ndarray:
    """Whether each of `length` characters lies in one of some spans."""
    edges = np.zeros(length + 1, dtype=np.int64)
    np.add.at(edges, offsets[:, 0], 1)
    np.add.at(edges, offsets[:, 1], -1)
    return np.cumsum(edges[:-1]) > 0
