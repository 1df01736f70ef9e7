"""What the benchmark of the loss asks of a process of its own; see ranks.py."""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

from perdure.kernels.bench import make_problem
from perdure.kernels.bench_measure import measure
from perdure.kernels.bench_methods import METHODS

sys.path.insert(0, str(Path(__file__).parent))
from turns import busy_program, in_turns


def _run(sizes: dict, name: str, k: float):
    problem = make_problem(**sizes, dtype=torch.float32, device=torch.device("cpu"))

    def run():
        problem.hidden.grad = problem.weight.grad = None
        METHODS[name](problem, k)

    return run


def loss_memory(sizes: dict, name: str, k: float) -> int:
    """Bytes that one forward and backward pass takes at its peak, gradients included, inputs not."""
    return measure(_run(sizes, name, k), torch.device("cpu"), 1).memory


def loss_seconds(sizes: dict, cases: dict, turns: int, beside: bool) -> dict:
    """Seconds of forward and backward by case (name, k), taking turns; beside a busy program, or alone."""
    runs = {label: _run(sizes, *case) for label, case in cases.items()}
    for run in runs.values():
        run()  # warms up

    def timed(run) -> float:
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun

    timed_runs = {label: partial(timed, run) for label, run in runs.items()}
    if not beside:
        return in_turns(timed_runs, turns)
    with busy_program():
        return in_turns(timed_runs, turns)


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
