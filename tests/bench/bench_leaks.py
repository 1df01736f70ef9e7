"""The search for leaks: CPU time on one core, and memory that does not grow with the corpus."""

from pathlib import Path

import numpy as np
from corpus import source_files
from support import on_rank
from tiny import EOS, write_shard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.shards import open_shard

FULL = {"size": 12_000_000, "wanted": 200_000}
TINY = {"size": 200_000, "wanted": 1_000}
DOCUMENT = 5000


def measure(directory: Path, size: int, wanted: int) -> dict:
    """Tokens per CPU second, and the memory of the process, for a tenth of a corpus and for all of it."""
    text = "".join(source_files(size))
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
    (directory / "tokenizer").mkdir()
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    facts = {"eos_id": EOS, "vocab_size": 32_000, "tokenizer_hash": "", "parse_special_tokens": False}
    finish(directory / "tokenizer", facts)
    ids = [np.array([*tokenizer.encode(document).ids, EOS], np.uint16) for document in documents]
    grams = np.random.default_rng(0).integers(0, 2**63, wanted).astype(np.uint64)
    np.savez(directory / "grams.npz", **{"13": np.unique(grams)})
    rows = []
    for name, part in (("a", ids[: len(ids) // 10]), ("b", ids)):
        (directory / name).mkdir()
        write_shard(directory / name / "00000", part)
        finish(directory / name, {"tasks": 1, **facts})
        tokens = int(open_shard(directory / name / "00000").lengths.sum())
        places = directory / name, directory / "tokenizer", directory / "grams.npz"
        rows.append({"tokens": tokens} | on_rank("search", *places, script="bench/leaks.py", threads=2))
    return {"wanted": wanted, "rows": rows}


def required(found: dict) -> dict[str, bool]:
    few, all_ = found["rows"]
    return {"memory does not grow with the corpus": all_["bytes"] < 1.5 * few["bytes"]}
