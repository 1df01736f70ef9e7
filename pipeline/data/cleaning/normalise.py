"""Text normalisation, the hash that decides what is held out, and the counting of words."""

import re
import unicodedata
from functools import lru_cache

import xxhash
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.word_tokenizers import WordTokenizer

from perdure.pipeline.data.read.conversations import CONVERSATION, text_of
from perdure.pipeline.data.read.pairs import equal_answers

LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
# Scripts written without spaces: kana, Han, Thai, Lao, Khmer, Myanmar.
WORD = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]|"
    "[^\\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+"
)

MOST_MARKS = 256
"""Combining marks in a row that are kept; the Stream-Safe Text Format of Unicode allows 30."""


def normalise(text: str) -> str:
    """Normalises a text: the form in which it is compared, hashed and trained on.

    Line ends become `\\n`; control characters (all but tab), byte-order marks and lone surrogates go; of combining marks
    after each other all but the first `MOST_MARKS`; Unicode NFC; blanks at line ends go, and so do blank lines before and
    blanks after the text. Idempotent.
    """
    text = UNWANTED.sub("", LINE_ENDS.sub("\n", text))
    if not text.isascii():
        # Again after it, since a few marks become two.
        text = without_heaps(unicodedata.normalize("NFC", without_heaps(text)))
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def without_heaps(text: str) -> str:
    """Cuts runs of more combining marks than any script has; NFC sorts a run in quadratic time (UAX #15, section 13)."""
    marks, heap = _combining_marks()
    half = MOST_MARKS // 2
    for place in range(0, len(text), MOST_MARKS):
        # A run that is longer covers such a place, and as much as half of itself before or after it.
        if text[place] in marks and (
            marks.issuperset(text[place : place + half])
            or marks.issuperset(text[max(place - half, 0) : place])
        ):
            return heap.sub(lambda run: run[0][:MOST_MARKS], text)
    return text


@lru_cache
def _combining_marks() -> tuple[frozenset[str], re.Pattern[str]]:
    """All characters that NFC sorts, and an expression of more in a row than are kept."""
    found = {chr(code) for code in range(0x300, 0x20000) if unicodedata.combining(chr(code))}
    found |= set("\u0f73\u0f75\u0f81")  # two such characters each
    return frozenset(found), re.compile(f"[{''.join(sorted(found))}]{{{MOST_MARKS + 1},}}")


def text_hash(text: str) -> int:
    """64-bit XXH3 of a normalised text's UTF-8 bytes."""
    return xxhash.xxh3_64_intdigest(text.encode())


def is_heldout(digest: int, fraction: float) -> bool:
    """Whether the document with this `text_hash` is held out: its hash, as a fraction of 2^64, is below `fraction`."""
    return digest < fraction * 2.0**64


def split_words(text: str) -> list[str]:
    """Words of a text: runs of non-blanks, and single characters of scripts that are written without blanks."""
    return text.split() if text.isascii() else WORD.findall(text)


@lru_cache(maxsize=2)  # every step of a pipeline asks for the same text in turn
def count_words(text: str) -> int:
    """Number of words of a text."""
    return len(text.split()) if text.isascii() else sum(1 for _ in WORD.finditer(text))


class Normaliser(PipelineStep):
    """Normalises texts, and each message of a conversation; drops and counts what is then `empty`; counts words.

    A conversation with a message that is then empty has `no_messages`, as if it had been empty from the first.
    """

    type = "✂️ - FORMAT"
    name = "Normaliser"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yields the documents that have text."""
        for document in data:
            if conversation := document.metadata.get(CONVERSATION):
                messages = [*conversation["messages"], *conversation.get("rejected", ())]
                for message in messages:
                    message["content"] = normalise(message["content"])
                if not all(message["content"] or message.get("tool_calls") for message in messages):
                    self.stat_update("dropped:no_messages")
                    continue
                if equal_answers(conversation):
                    self.stat_update("dropped:equal_answers")
                    continue
                document.text = text_of(messages)
            document.text = normalise(document.text)
            if not document.text:
                self.stat_update("dropped:empty")
                continue
            self.stat_update("out")
            self.stat_update("words_out", value=count_words(document.text))
            yield document


class Words(WordTokenizer):
    """Word splitter for MinHash: runs of non-blanks, and single characters of scripts without blanks.

    datatrove hands it text that is lower-cased and stripped of punctuation.
    """

    def word_tokenize(self, text: str) -> list[str]:
        """Splits a text into words."""
        return split_words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Unused by MinHash."""
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Unused by MinHash."""
        raise NotImplementedError
