"""What a save costs training: asynchronous and synchronous, with and without hashes of the files, taking turns.

Two costs are told apart: how long training waits, and how long the next update of all weights and moments takes, which
after an asynchronous save shares the cores with the writers and copies the memory that it changes.
"""

from pathlib import Path

from support import on_rank
from tiny import prepare_version, tiny_recipe
from turns import ratio

SHAPE = {
    "type": "llama",
    "num_layers": 10,
    "hidden_size": 576,
    "ffn_hidden_size": 1536,
    "num_attention_heads": 9,
    "num_query_groups": 3,
}
SMALL = {"num_layers": 1, "hidden_size": 36, "ffn_hidden_size": 64}
FULL = {"shape": SHAPE, "vocab": 49_152, "turns": 6, "threads": 2}
TINY = {"shape": SHAPE | SMALL, "vocab": 300, "turns": 1, "threads": 1}
KINDS = {
    "synchronous": (False, True),
    "synchronous, without hashes": (False, False),
    "asynchronous": (True, True),
    "asynchronous, without hashes": (True, False),
}


def measure(directory: Path, shape: dict, vocab: int, turns: int, threads: int) -> dict:
    """Seconds of waiting, of the update after it and until the checkpoint is whole, by kind of save."""
    version = prepare_version(tiny_recipe(directory, model=shape), vocab_size=vocab)
    found = on_rank("save_stalls", version, KINDS, turns, script="bench/saving.py", threads=threads)
    parts = {name: dict(zip(("blocked", "update", "whole"), zip(*stalls))) for name, stalls in found.items()}
    bytes_ = sum(path.stat().st_size for path in (version / "checkpoints").glob("*/*.distcp"))
    saved = len(list((version / "checkpoints").glob("step_*")))
    pairs = {
        "asynchronous": ("asynchronous", "synchronous"),
        "hashed synchronous": ("synchronous", "synchronous, without hashes"),
        "hashed asynchronous": ("asynchronous", "asynchronous, without hashes"),
    }
    ratios = {
        name: {part: ratio(parts[ours][part], parts[other][part]) for part in ("blocked", "whole")}
        for name, (ours, other) in pairs.items()
    }
    return {"parts": parts, "ratios": ratios, "bytes": bytes_ / saved, "turns": turns}


def required(found: dict) -> dict[str, bool]:
    blocked = found["ratios"]["asynchronous"]["blocked"]["median"]
    return {"an asynchronous save blocks training less than a third as long": blocked < 1 / 3}
