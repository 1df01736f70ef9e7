"""Cleaning one source: read, normalise, drop exact and near duplicates; documents come out as JSON lines.

Near duplicates are found with datatrove's MinHash (Broder 1997; parameters as in FineWeb, Penedo et al. 2024): two
documents whose word 5-grams have Jaccard similarity s become candidates with probability 1 - (1 - s^8)^14.
"""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
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
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.text import TextNormConfig

from perdure.pipeline.data.executor import Executor, building
from perdure.pipeline.data.normalise import Normaliser, Words
from perdure.pipeline.data.readers import CleanedDocuments, reader_step
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import finish, hash_file
from perdure.pipeline.recipe import Source

MINHASH = MinhashConfig(
    n_grams=5,
    num_buckets=14,
    hashes_per_bucket=8,
    norm_config=TextNormConfig(norm_unicode_diacritics=False),  # a third of the time, and accents do matter
)
ROWS = 4096
"""Shingles hashed at a time."""


class BoundedSignature(MinhashDedupSignature):
    """datatrove's signature step in bounded memory (it would take 2 kB a word), for xxhash with or without `str`."""

    def __init__(self, folder: Path):
        super().__init__(str(folder), MINHASH, Words())
        self._hash_func = _hash_shingle

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The minimum over blocks of shingles, which equals the minimum over all of them."""
        blocks = [
            np.array(super(BoundedSignature, self).get_signature(shingles[start : start + ROWS]), np.uint64)
            for start in range(0, len(shingles), ROWS)
        ]
        return np.minimum.reduce(blocks).tolist()


def clean_source(
    out: Path, final: Path, name: str, source: Source, tasks: int, pool: ProcessPoolExecutor, manifest: dict
) -> None:
    """Writes the cleaned documents of one source, `<task>.jsonl.zst`, and counts what was dropped.

    Args:
        out: The run's directory.
        final: Where the artefact goes.
        name: The source's name in the recipe.
        source: Its reader and cleaning options.
        tasks: Number of parts.
        pool: Worker processes.
        manifest: What the artefact depends on; `counts` and `files` are added.

    Raises:
        PerdureError: If no document is left.
    """
    with building(out, final) as work:
        counts = _clean(work, source, tasks, pool)
        if not counts["out"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts["dropped"].items())
            raise PerdureError(
                f"sources.{name}: no document left of {counts['in']} ({reasons or 'the source is empty'}); "
                "look at its reader, `text_field` and `min_chars`"
            )
        artefact = work / "artefact"
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)}
            for path in sorted(artefact.glob("*.jsonl.zst"))
        }
        finish(artefact, manifest | {"counts": {"documents": counts}, "files": files})


def _clean(work: Path, source: Source, tasks: int, pool: ProcessPoolExecutor) -> dict:
    """Runs the pipelines; returns documents in, dropped by reason, and out."""

    def run(step_name: str, steps: list[PipelineStep], tasks: int = tasks) -> list[Counter]:
        return Executor(steps, tasks, pool, work / step_name).run()

    def write(folder: str) -> JsonlWriter:
        return JsonlWriter(str(work / folder), "${rank}.jsonl.zst", compression="zstd")

    dropped: Counter = Counter()
    last = "artefact" if not (source.exact_dedup or source.minhash_dedup) else "documents"
    steps = [reader_step(source.reader), Normaliser(source.min_chars), write(last)]
    if source.exact_dedup:
        steps.append(ExactDedupSignature(str(work / "exact"), EXACT))
    elif source.minhash_dedup:
        steps.append(BoundedSignature(work / "signatures"))
    reader, normaliser, writer, *_ = run("read", steps)
    documents_in, left = reader["in"], writer["total"]
    for counter in (reader, normaliser):
        dropped.update({key[8:]: count for key, count in counter.items() if key.startswith("dropped:")})

    keep: list[PipelineStep] = [CleanedDocuments(str(work / "documents"))]
    if source.exact_dedup:
        run("exact_find", [ExactFindDedups(str(work / "exact"), str(work / "exact_found"), EXACT)], tasks=1)
        keep.append(ExactDedupFilter(str(work / "exact_found"), EXACT))
        if source.minhash_dedup:
            run("minhash_sign", [*keep, BoundedSignature(work / "signatures")])
    if source.minhash_dedup:
        run(
            "minhash_match",
            [MinhashDedupBuckets(str(work / "signatures"), str(work / "matches"), config=MINHASH)],
            tasks=MINHASH.num_buckets,
        )
        run(
            "minhash_cluster",
            [MinhashDedupCluster(str(work / "matches"), str(work / "clusters"), MINHASH)],
            tasks=1,
        )
        keep.append(MinhashDedupFilter(str(work / "clusters")))
    if len(keep) > 1:
        _, *filters, writer = run("filter", [*keep, write("artefact")])
        reasons = ["exact_duplicate"] * source.exact_dedup + ["near_duplicate"] * source.minhash_dedup
        dropped.update({reason: counter["dropped"] for reason, counter in zip(reasons, filters, strict=True)})
        left = writer["total"]
    dropped = +dropped
    assert documents_in == left + dropped.total(), (documents_in, left, dropped)
    return {"in": documents_in, "dropped": dict(sorted(dropped.items())), "out": left}


def _hash_shingle(shingle: str) -> int:
    return xxhash.xxh64_intdigest(shingle.encode())


def _content(document: Document) -> bytes:
    return document.text.encode()


EXACT = ExactDedupConfig(content_getter=_content)
