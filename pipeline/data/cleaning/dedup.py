"""Deduplication: exact, by MinHash, by sentences. Each is datatrove's, with what offline runs and long documents need.

Near duplicates are found with datatrove's MinHash (Broder 1997; parameters as in FineWeb, Penedo et al. 2024): two
documents whose word 5-grams have Jaccard similarity s become candidates with probability 1 - (1 - s^8)^14.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.io import DataFolder
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.sentence_dedup import (
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)
from datatrove.utils.text import TextNormConfig, ngrams, simplify_text

from perdure.pipeline import recipe
from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.normalise import Words
from perdure.pipeline.data.cleaning.splitters import LanguageSplitter
from perdure.pipeline.data.cleaning.time_limit import TooSlow, within_limit
from perdure.pipeline.data.read.files import fits

MINHASH = MinhashConfig(
    n_grams=5,
    num_buckets=14,
    hashes_per_bucket=8,
    norm_config=TextNormConfig(norm_unicode_diacritics=False),  # a third of the time, and accents do matter
)
SIGNED = "*/*.c4_sig"
"""Signatures as datatrove's steps that find equal ones look for them."""
ROWS = 4096
"""Shingles hashed at a time."""
MAX_SENTENCES = 1 << 16
"""Sentences of a document that datatrove's signatures can number; those after them are kept."""


def exact_dedup(folder: Path) -> Block:
    """Drops documents whose text occurred before."""
    signatures = Folder(str(folder / "signatures"))
    return Block(
        "exact_duplicate",
        ExactDedupFilter(str(folder / "found"), EXACT),
        sign=ExactDedupSignature(signatures, EXACT),
        match=[(ExactFindDedups(signatures, str(folder / "found"), EXACT), 1)],
        signed=lambda: signatures.list_files(glob_pattern=SIGNED),
    )


def minhash_dedup(folder: Path) -> Block:
    """Drops near duplicates."""
    signatures, matches = Folder(str(folder / "signatures")), Folder(str(folder / "matches"))
    clusters = str(folder / "clusters")
    return Block(
        "near_duplicate",
        MinhashDedupFilter(clusters),
        sign=BoundedSignature(signatures),
        match=[
            (MinhashDedupBuckets(signatures, matches, config=MINHASH), MINHASH.num_buckets),
            (MinhashDedupCluster(matches, clusters, MINHASH), 1),
        ],
        signed=lambda: signatures.list_files(subdirectory="bucket_000"),
    )


def sentence_dedup(step: recipe.SentenceDedup, folder: Path) -> Block:
    """Removes runs of sentences that occurred before."""
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
        signed=lambda: signatures.list_files(glob_pattern=SIGNED),
    )


class Folder(DataFolder):
    """datatrove's folder, whose own path is no pattern: of `/data/[2024]/run`, datatrove would list nothing."""

    def glob(self, path: str, **_: object) -> dict[str, dict]:
        """What lies in it and fits a pattern, by name."""
        pattern = PurePosixPath(path).parts
        found = self.find("", maxdepth=len(pattern), detail=True)
        return {name: info for name, info in found.items() if fits(name, [pattern])}


class BoundedSignature(MinhashDedupSignature):
    """datatrove's signature step in bounded memory (it would take 2 kB a word), for xxhash with or without `str`."""

    def __init__(self, folder: DataFolder):
        super().__init__(folder, MINHASH, Words())
        self._hash_func = _hash_shingle

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The minimum over blocks of shingles, which equals the minimum over all of them."""
        blocks = [
            np.array(super(BoundedSignature, self).get_signature(shingles[start : start + ROWS]), np.uint64)
            for start in range(0, len(shingles), ROWS)
        ]
        return np.minimum.reduce(blocks).tolist()


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


def _hash_shingle(shingle: str) -> int:
    return xxhash.xxh64_intdigest(shingle.encode())


def _content(document: Document) -> bytes:
    return document.text.encode()


EXACT = ExactDedupConfig(content_getter=_content)
