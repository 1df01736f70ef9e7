"""The step `c4_quality`: C4's rules for lines and sentences (Raffel et al. 2020).

English goes through datatrove's filter, other languages through one that knows their sentence ends.
"""

from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import (
    CITATION_REGEX,
    ELLIPSIS,
    END_PUNCTUATION,
    POLICY_SUBSTRINGS,
    C4QualityFilter,
)
from datatrove.utils.text import TERMINAL_PUNCTUATION

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.languages import ENGLISH, WITHOUT_BLANKS, splitter
from perdure.pipeline.data.cleaning.splitters import LanguageSplitter, filter_options
from perdure.pipeline.recipe import C4Quality

CLOSING = "\u201d\u2019\u201c\u2018\u00bb\u00ab\u203a\u2039\u300d\u300f\uff09)"
"""Quotation marks and brackets that close sentences in one language or another."""
SENTENCE_ENDS = (*END_PUNCTUATION, *sorted(TERMINAL_PUNCTUATION), *CLOSING)


def block(step: C4Quality, _folder: Path) -> Block:
    """The step's block."""
    options = filter_options(step)
    if step.language in ENGLISH:
        return Block("c4_quality", C4QualityFilter(**options))
    return Block("c4_quality", C4LinesFilter(**options | {"language": step.language}))


class C4LinesFilter(C4QualityFilter):
    """datatrove's filter, with the sentence ends of all scripts, and words counted where no blanks stand between them."""

    def __init__(self, language: str, **options: int | bool):
        super().__init__(language=LanguageSplitter(language), **options)
        found = splitter(language)
        self.without_blanks = found is not None and found.script in WITHOUT_BLANKS

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """True to keep a document, else False and the reason; lines that are no sentences are removed from it."""
        kept, sentences = [], 0
        for line in map(str.strip, doc.text.splitlines()):
            if self.max_word_length != -1 and any(len(run) > self.max_word_length for run in line.split()):
                continue
            words = self.language.word_tokenize(line) if self.without_blanks else line.split()
            if self.remove_citations:
                line = CITATION_REGEX.sub("", line)
            if self.filter_no_terminal_punct and (
                not line.endswith(SENTENCE_ENDS) or line.endswith(ELLIPSIS)
            ):
                continue
            if len(words) < self.min_words_per_line:
                continue
            lower = line.lower()
            if self.filter_lorem_ipsum and "lorem ipsum" in lower:
                return False, "lorem_ipsum"
            if self.filter_javascript and "javascript" in lower:
                continue
            if self.filter_curly_bracket and "{" in line:
                return False, "curly_bracket"
            if self.filter_policy and any(phrase in lower for phrase in POLICY_SUBSTRINGS):
                continue
            if self.min_num_sentences != -1:
                sentences += len(self.language.sent_tokenize(line))
            kept.append(line)
        if sentences < self.min_num_sentences:
            return False, "too_few_sentences"
        doc.text = "\n".join(kept).strip()
        return True
