"""The step `sentence_dedup`: removes runs of sentences that occurred before (Raffel et al. 2020), by datatrove's blocks."""

from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup.sentence_dedup import (
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)
from datatrove.utils.text import ngrams, simplify_text

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.signatures import SIGNATURES, Folder
from perdure.pipeline.data.cleaning.splitters import LanguageSplitter
from perdure.pipeline.data.cleaning.time_limit import TooSlow, within_limit
from perdure.pipeline.recipe import SentenceDedup

MAX_SENTENCES = 1 << 16
"""Sentences of a document that datatrove's signatures can number; those after them are kept."""


def block(step: SentenceDedup, folder: Path) -> Block:
    """The step's block."""
    config = SentDedupConfig(
        n_sentences=step.n_sentences,
        min_doc_words=step.min_doc_words,
        min_num_sentences=step.min_num_sentences,
    )
    signatures, found = Folder(str(folder / "signatures")), str(folder / "found")
    language = LanguageSplitter(step.language)
    return Block(
        "duplicate_sentences",
        SentenceDedupFilter(found, config, language=language),
        sign=SpanSignature(signatures, config=config, language=language),
        match=[(SentenceFindDedups(signatures, found, config=config), 1)],
        signed=lambda: signatures.list_files(glob_pattern=SIGNATURES),
    )


class SpanSignature(SentenceDedupSignature):
    """datatrove's signature step, numbering sentences as its filter does (by spans), in as many bits as there are."""

    def get_hashes(self, doc: Document, doc_idx: int) -> list[tuple[int, int, int]]:
        """Hashes of a document's runs of sentences: (hash, document, first sentence); none if finding them takes too long."""
        try:
            spans = within_limit(
                lambda text: list(self.tokenizer.span_tokenize(text)), len(doc.text), doc.text
            )
        except TooSlow:
            return []
        begin, sentences = 0, []
        for _, end in spans:
            sentences.append(simplify_text(doc.text[begin:end], self.config.norm_config))
            begin = end
        runs = [" ".join(run) for run in ngrams(sentences[:MAX_SENTENCES], self.config.n_sentences)]
        return [
            (self.hash_fc(run.encode()), doc_idx, number) for number, run in enumerate(runs) if run.strip()
        ]
