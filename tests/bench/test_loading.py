"""Data loading over a synthetic shard of a billion tokens in two million documents."""

import time
from pathlib import Path

import numpy as np
import pytest
from support import EOS, on_rank, tiny_recipe

from perdure.pipeline.manifest import finish, hash_file
from perdure.pipeline.planning import build_plan

TOKENS, DOCUMENTS, SEQ_LENGTH, VOCAB = 1_000_000_000, 2_000_000, 2048, 50_000


def write_shard(directory: Path) -> None:
    """Real bytes, in Megatron's layout, documents of 300 to 700 tokens."""
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    lengths = rng.integers(300, 701, DOCUMENTS)
    excess = int(lengths.sum()) - TOKENS
    lengths[: abs(excess)] -= np.sign(excess)
    assert lengths.sum() == TOKENS and lengths.min() > 0
    file = MegatronTokenizedFile(str(directory), "00000")
    block = rng.integers(1, VOCAB, 1 << 24, dtype=np.uint16)
    left = int(lengths.sum())
    while left:
        file.bin_file.write(block[: min(left, len(block))].tobytes())
        left -= min(left, len(block))
    file.sequence_lengths = lengths.tolist()
    file.document_indices = list(range(DOCUMENTS + 1))
    file.close()
    finish(
        directory,
        {
            "tasks": 1,
            "eos_id": EOS,
            "vocab_size": VOCAB,
            "tokenizer_hash": "synthetic",
            "data_hash": "synthetic",
            "files": {"00000.idx": {"sha256": hash_file(directory / "00000.idx")}},
        },
    )


@pytest.mark.bench
def test_loading_a_billion_tokens(tmp_path: Path):
    begun = time.perf_counter()
    write_shard(tmp_path / "data" / "a")
    print(f"\nwrote {TOKENS:,} tokens in {DOCUMENTS:,} documents in {time.perf_counter() - begun:.0f} s")
    recipe = tiny_recipe(
        tmp_path,
        training__seq_length=SEQ_LENGTH,
        versions__v1__tokens=25 * TOKENS,
        versions__v1__mixture={"sources": {"a": {"order": "shuffled"}}, "max_repetition": 100},
    )
    begun = time.perf_counter()
    build_plan(tmp_path / "plan", recipe, "v1", {"a": tmp_path / "data" / "a"}, {})
    print(f"planned in {time.perf_counter() - begun:.1f} s, once")
    found = on_rank("loading", tmp_path / "plan", tmp_path / "data" / "a", script="bench/loading.py")
    print("| measure | found | required |\n|---|---|---|")
    print(f"| start-up to the first sample, without imports | {found['start_up']:.2f} s | 5 s |")
    print(f"| memory of the process then, torch imported | {found['memory'] / 1e6:.0f} MB | 500 MB |")
    print(f"| memory that this took | {found['memory_taken'] / 1e6:.0f} MB | |")
    print(f"| tokens/s from one process | {found['rate']:,.0f} | 2,000,000 |")
    print(f"| seek to sample 10 | {found['seek_10'] * 1e6:.0f} us | |")
    print(f"| seek to sample 10,000,000 | {found['seek_10m'] * 1e6:.0f} us | the same |")
    assert found["start_up"] < 5
    assert found["memory"] < 500e6
    assert found["rate"] > 2e6
    assert found["seek_10m"] < 2 * found["seek_10"]
