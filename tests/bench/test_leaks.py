"""The search for leaks: CPU time on one core, and memory that does not grow with the corpus."""

from pathlib import Path

import numpy as np
import pytest
from support import EOS, on_rank, write_shard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from perdure.pipeline.manifest import finish
from perdure.pipeline.shards import open_shard

SIZE, DOCUMENT, WANTED = 12_000_000, 5000, 200_000


@pytest.mark.bench
def test_leaks_are_searched_in_bounded_memory(tmp_path: Path):
    text = ""  # of the installed packages
    for path in sorted(Path(np.__file__).parents[1].rglob("*.py")):
        text += path.read_text(encoding="utf-8", errors="ignore")
        if len(text) > SIZE:
            break
    documents = [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(documents[::10], trainer)
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    finish(tmp_path / "tokenizer", {"eos_id": EOS, "vocab_size": 32_000, "tokenizer_hash": ""})
    ids = [np.array([*tokenizer.encode(document).ids, EOS], np.uint16) for document in documents]
    grams = np.random.default_rng(0).integers(0, 2**63, WANTED).astype(np.uint64)
    np.savez(tmp_path / "grams.npz", **{"13": np.unique(grams)})
    print("\n| tokens | tokens/s on one core | memory of the process |\n|---|---|---|")
    memory = []
    for name, part in (("a", ids[: len(ids) // 10]), ("b", ids)):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "00000", part)
        tokens = int(open_shard(tmp_path / name / "00000").lengths.sum())
        places = tmp_path / name, tmp_path / "tokenizer", tmp_path / "grams.npz"
        found = on_rank("search", *places, script="bench/leaks.py", threads=2)
        memory.append(found["bytes"] / 1e6)
        print(f"| {tokens:,} | {tokens / found['seconds']:,.0f} | {memory[-1]:.0f} MB |")
    assert memory[1] < 1.5 * memory[0]
