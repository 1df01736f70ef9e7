"""What the benchmark of the loss asks of a process of its own; see ranks.py."""

import json
import sys
import time
from pathlib import Path

import torch

from perdure.kernels.bench import make_problem
from perdure.kernels.bench_measure import measure
from perdure.kernels.bench_methods import METHODS

WIDTH, VOCAB, TOKENS = 576, 49152, 4096


def _run(name: str, k: float):
    problem = make_problem(WIDTH, VOCAB, TOKENS, torch.float32, torch.device("cpu"))

    def run():
        problem.hidden.grad = problem.weight.grad = None
        METHODS[name](problem, k)

    return run


def loss_memory(name: str, k: float) -> int:
    """Bytes that one forward and backward pass takes at its peak, gradients included, inputs not."""
    return measure(_run(name, k), torch.device("cpu"), 1).memory


def loss_seconds(cases: list, rounds: int) -> list:
    """Seconds of forward and backward, per case (name, k), taking turns."""
    runs = [_run(*case) for case in cases]
    seconds: list = [[] for _ in runs]
    for round_ in range(rounds + 1):
        for run, taken in zip(runs, seconds):
            begun = time.perf_counter()
            run()
            if round_:  # the first one warms up
                taken.append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
