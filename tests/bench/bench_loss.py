"""Time and memory of the selective loss without logits, beside logits and cross entropy, on this CPU, taking turns."""

from pathlib import Path

from support import on_rank
from turns import ratio

FULL = {"width": 576, "vocab": 49_152, "tokens": 4096, "turns": 6, "threads": 2}
TINY = {"width": 8, "vocab": 500, "tokens": 40, "turns": 1, "threads": 1}
PLAIN = "logits + cross entropy"
SELECTIVE = "without logits, k = 0.6"
CASES = {
    PLAIN: ("eager", 1.0),
    "all logits, k = 0.6": ("torch", 0.6),
    SELECTIVE: ("chunked", 0.6),
    "without logits, k = 1": ("chunked", 1.0),
}


def measure(directory: Path, width: int, vocab: int, tokens: int, turns: int, threads: int) -> dict:
    """Peak memory by case, and seconds by case with two threads, alone and beside one busy program."""
    sizes, asked = {"width": width, "vocab": vocab, "tokens": tokens}, {"script": "bench/loss.py"}
    memory = {
        name: on_rank("loss_memory", sizes, *case, **asked, threads=threads) for name, case in CASES.items()
    }
    places = {}
    for place, cases in (("alone", CASES), ("beside", {name: CASES[name] for name in (PLAIN, SELECTIVE)})):
        arguments = sizes, cases, turns, place == "beside"
        seconds = on_rank("loss_seconds", *arguments, **asked, threads=threads)
        ratios = {name: ratio(seconds[name], seconds[PLAIN]) for name in cases if name != PLAIN}
        places[place] = {"seconds": seconds, "ratios": ratios}
    return {"sizes": sizes, "turns": turns, "memory": memory, "places": places}


def required(found: dict) -> dict[str, bool]:
    memory, alone, beside = found["memory"], *(found["places"][place] for place in ("alone", "beside"))
    return {
        "the loss without logits takes a quarter of the memory": memory[SELECTIVE] < memory[PLAIN] / 4,
        "and 0.9 of the time": alone["ratios"][SELECTIVE]["median"] <= 0.9,
        "and 1.2 of the time beside a busy program": beside["ratios"][SELECTIVE]["median"] <= 1.2,
    }
