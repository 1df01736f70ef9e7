"""Training speed beside the plain Hugging Face loop: same model, same batch, same CPU, taking turns."""

import statistics
from functools import partial
from pathlib import Path

from support import on_rank
from tiny import prepare_version, tiny_recipe
from turns import in_turns, ratio

SHAPE = {
    "type": "llama",
    "num_layers": 6,
    "hidden_size": 256,
    "ffn_hidden_size": 704,
    "num_attention_heads": 4,
    "num_query_groups": 2,
}
SMALL = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64}
FULL = {"shape": SHAPE, "vocab": 4096, "seq_length": 256, "batch": 8, "steps": 7, "turns": 6, "threads": 2}
TINY = {
    "shape": SHAPE | SMALL,
    "vocab": 300,
    "seq_length": 16,
    "batch": 2,
    "steps": 2,
    "turns": 1,
    "threads": 1,
}
PLAIN = "transformers loop"


def measure(
    directory: Path,
    shape: dict,
    vocab: int,
    seq_length: int,
    batch: int,
    steps: int,
    turns: int,
    threads: int,
) -> dict:
    """Tokens a second of each loop, and each by the plain one of the same turn."""
    changes = {
        "model": shape,
        "training__seq_length": seq_length,
        "training__micro_batch_size": batch,
        "training__global_batch_size": batch,
        "versions__v1__tokens": seq_length * batch * steps,
        "versions__v1__mixture__max_repetition": 1e6,
    }
    plain = prepare_version(tiny_recipe(directory / "plain", **changes), vocab_size=vocab)
    selection = {"versions__v1__selection": {"k": 0.6, "reference": "/unused"}}
    selective = prepare_version(
        tiny_recipe(directory / "selective", **changes, **selection), scored=True, vocab_size=vocab
    )
    calls = {
        PLAIN: ("plain_loop", shape, vocab, seq_length, batch, steps),
        "perdure": ("our_loop", plain, steps),
        "perdure, k = 0.6": ("our_loop", selective, steps),
    }

    def rate(call: tuple) -> float:
        seconds = on_rank(*call, script="bench/training.py", threads=threads)
        return seq_length * batch / statistics.median(seconds)

    rates = in_turns({name: partial(rate, call) for name, call in calls.items()}, turns)
    ratios = {name: ratio(rates[name], rates[PLAIN]) for name in rates if name != PLAIN}
    sizes = {"seq_length": seq_length, "batch": batch, "vocab": vocab, "shape": shape, "steps": steps}
    return sizes | {"turns": turns, "rates": rates, "ratios": ratios}


def required(found: dict) -> dict[str, bool]:
    return {"training is not slower than the plain loop": found["ratios"]["perdure"]["told"] != "less"}
