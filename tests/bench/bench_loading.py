"""Data loading over a synthetic shard."""

import time
from pathlib import Path

import numpy as np
from support import on_rank
from tiny import EOS, tiny_recipe

from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.plan.planning import build_plan

FULL = {"documents": 2_000_000, "batches": 1250, "seeks": 200}
TINY = {"documents": 2_000, "batches": 5, "seeks": 3}
SEQ_LENGTH, MICRO, VOCAB = 2048, 8, 50_000


def write_shard(directory: Path, documents: int) -> int:
    """Real bytes, in Megatron's layout, documents of 300 to 700 tokens, of 500 on average; the number of tokens."""
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    tokens = 500 * documents
    lengths = rng.integers(300, 701, documents)
    each, rest = divmod(int(lengths.sum()) - tokens, documents)
    lengths -= each
    lengths[:rest] -= 1
    assert lengths.sum() == tokens and lengths.min() > 0
    file = MegatronTokenizedFile(str(directory), "00000")
    block = rng.integers(1, VOCAB, 1 << 24, dtype=np.uint16)
    left = tokens
    while left:
        file.bin_file.write(block[: min(left, len(block))].tobytes())
        left -= min(left, len(block))
    file.sequence_lengths = lengths.tolist()
    file.document_indices = list(range(documents + 1))
    file.close()
    finish(
        directory,
        {
            "tasks": 1,
            "eos_id": EOS,
            "vocab_size": VOCAB,
            "tokenizer_hash": "synthetic",
            "data_hash": "synthetic",
            "counts": {"train": {"documents": documents, "tokens": tokens}},
            "files": {"00000.idx": {"sha256": hash_file(directory / "00000.idx")}},
        },
    )
    return tokens


def measure(directory: Path, documents: int, batches: int, seeks: int) -> dict:
    """Start-up, memory, rate and seeks of reading, in a process of its own."""
    data, plan = directory / "data" / "a", directory / "plan"
    tokens = write_shard(data, documents)
    recipe = tiny_recipe(
        directory,
        training__seq_length=SEQ_LENGTH,
        versions__v1__tokens=25 * tokens,
        versions__v1__mixture={"sources": {"a": {"order": "shuffled"}}, "max_repetition": 100},
    )
    begun = time.perf_counter()
    build_plan(plan, recipe, "v1", {"a": data}, {})
    planned = time.perf_counter() - begun
    found = on_rank("loading", plan, data, batches, MICRO, seeks, script="bench/loading.py")
    return found | {"tokens": tokens, "documents": documents, "planned": planned}


def required(found: dict) -> dict[str, bool]:
    return {
        "the first sample comes within 5 s": found["start_up"] < 5,
        "the process takes less than 500 MB": found["memory"] < 500e6,
        "one process reads 2,000,000 tokens/s": found["rate"] > 2e6,
        "a seek takes as long anywhere": found["seek_far"] < 2 * found["seek_near"],
    }
