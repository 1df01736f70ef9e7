"""Scoring beside the plain way, taking turns."""

from pathlib import Path

from support import on_rank
from turns import ratio

SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SMALL = {"vocab_size": 500, "hidden_size": 36, "intermediate_size": 64, "num_hidden_layers": 1}
FULL = {"shape": SHAPE, "context": 256, "number": 32, "turns": 6}
TINY = {"shape": SHAPE | SMALL, "context": 32, "number": 4, "turns": 1}


def measure(directory: Path, shape: dict, context: int, number: int, turns: int) -> dict:
    """Peak memory of each way, in a process of its own; CPU seconds of both, taking turns in one process."""
    script = "bench/scoring.py"
    memory = {way: on_rank("memory", way, shape, context, number, script=script) for way in ("plain", "ours")}
    found = on_rank("seconds", shape, context, number, turns, script=script)
    speed = ratio(found["seconds"]["plain"], found["seconds"]["ours"])
    return found | {"memory": memory, "speed": speed, "turns": turns, "documents": number, "context": context}


def required(found: dict) -> dict[str, bool]:
    return {
        "both ways find the same losses": found["apart"] < 1e-3,
        "scoring takes a quarter of the plain way's memory": found["memory"]["ours"]
        < found["memory"]["plain"] / 4,
        "scoring is 1.3 times as fast as the plain way": found["speed"]["median"] > 1.3,
    }
