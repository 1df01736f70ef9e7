"""The order of domains that a version trains on one after another (Yildiz et al. 2024, arXiv 2402.17400).

They order domains by the similarity of sentence embeddings; here similar are domains of similar token frequencies, which
needs no model and can be checked by hand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.plan.order import count_documents
from perdure.pipeline.plan.permutation import hash_key, mix

SAMPLE_TOKENS = 10_000_000
"""Tokens of a domain that are counted, about: whole documents at equal distances."""


def random_order(domains: Sequence[str], seed: int) -> list[str]:
    """Domains shuffled by the seed; each one's sort key is independent of the others."""
    return sorted(domains, key=lambda domain: (mix(seed, hash_key(domain)), domain))


def similarity_order(
    domains: Mapping[str, np.ndarray], start: np.ndarray | None
) -> tuple[list[str], list[float]]:
    """A greedy path: each domain is followed by the most similar one that is left.

    Args:
        domains: Token frequencies of each, float64 [vocabulary], summing to 1; of equally similar ones the first goes.
        start: Those of what the path begins beside (replayed data); None: it begins at the first domain.

    Returns:
        The order, and the divergence of each domain from what stands before it (0 for the first without `start`).
    """
    left, order, distances = list(domains), [], []
    here = start
    while left:
        divergences = [0.0 if here is None else jensen_shannon(here, domains[name]) for name in left]
        best = int(np.argmin(divergences)) if here is not None else 0
        order.append(left.pop(best))
        distances.append(divergences[best])
        here = domains[order[-1]]
    return order, distances


def jensen_shannon(left: np.ndarray, right: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for those without a common token.

    Args:
        left: float64 [vocabulary], summing to 1.
        right: Likewise.

    Source:
        Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37, 1991.
    """
    middle = (left + right) / 2

    def divergence(one: np.ndarray) -> float:
        seen = one > 0
        return float(np.sum(one[seen] * np.log2(one[seen] / middle[seen])))

    return (divergence(left) + divergence(right)) / 2


def token_frequencies(data: Path, part: Path | None, limit: int = SAMPLE_TOKENS) -> np.ndarray:
    """How often each token occurs in training documents, float64 [vocabulary], summing to 1; separators left out.

    Args:
        data: A source's directory of shards.
        part: Directory of a part of it; None: all.
        limit: Tokens to count, about. Beyond it documents at equal distances are counted.
    """
    manifest = read_json(data / "manifest.json")
    keep = None if part is None else np.load(part / "keep.npy", mmap_mode="r")
    stride = max(1, count_documents(data, part)[1] // limit)
    counts = np.zeros(manifest["vocab_size"], np.int64)
    first = seen = 0
    for task in range(manifest["tasks"]):
        shard = open_shard(data / f"{task:05d}")
        number = len(shard.lengths)
        documents = np.arange(number) if keep is None else np.flatnonzero(keep[first : first + number])
        chosen = documents[-seen % stride :: stride]
        starts = [shard.start(document) for document in chosen.tolist()]
        lengths = shard.lengths[chosen].tolist()
        tokens = [shard.values[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        if tokens:
            counts += np.bincount(np.concatenate(tokens), minlength=len(counts))
        first, seen = first + number, seen + len(documents)
    counts[manifest["eos_id"]] = 0
    return counts / max(1, counts.sum())
