"""The step `minhash_dedup`: drops near duplicates by datatrove's MinHash (Broder 1997; parameters of FineWeb, Penedo et al.
2024).

Two documents whose word 5-grams have Jaccard similarity s become candidates with probability 1 - (1 - s^8)^14.
"""

from pathlib import Path

import numpy as np
import xxhash
from datatrove.io import DataFolder
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils.text import TextNormConfig

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.normalise import Words
from perdure.pipeline.data.cleaning.signatures import Folder
from perdure.pipeline.recipe import MinhashDedup

MINHASH = MinhashConfig(
    n_grams=5,
    num_buckets=14,
    hashes_per_bucket=8,
    norm_config=TextNormConfig(norm_unicode_diacritics=False),  # a third of the time, and accents do matter
)
ROWS = 4096
"""Shingles hashed at a time."""


def block(_step: MinhashDedup, folder: Path) -> Block:
    """The step's block."""
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


class BoundedSignature(MinhashDedupSignature):
    """datatrove's signature step in bounded memory (it would take 2 kB a word), for xxhash with or without `str`."""

    def __init__(self, folder: DataFolder):
        super().__init__(folder, MINHASH, Words())
        self._hash_func = hash_shingle

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The minimum over blocks of shingles, which equals the minimum over all of them."""
        blocks = [
            np.array(super(BoundedSignature, self).get_signature(shingles[start : start + ROWS]), np.uint64)
            for start in range(0, len(shingles), ROWS)
        ]
        return np.minimum.reduce(blocks).tolist()


def hash_shingle(shingle: str) -> int:
    """64-bit hash of an n-gram of words."""
    return xxhash.xxh64_intdigest(shingle.encode())
