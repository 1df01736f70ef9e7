"""How fast the kernels are beside other ways, at the sizes of real output layers: K1 alone, whole steps, element-wise."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from perdure.kernels.bench import HEADS, TINY, elementwise, is_available, make_problem
from perdure.kernels.bench_measure import matmul_rate, measure
from perdure.kernels.bench_methods import FLOPS, METHODS, Problem
from perdure.kernels.visit.rows import here, tried, writer

TOKENS = 8192
REPEATS = 12
PRODUCTS_OF_OTHERS = 3
"""A forward and two backward products, the least that a method can do that has every token's loss and both gradients."""


def timed(method: str, problem: Problem, share: float, rate: float) -> dict[str, Any]:
    """Milliseconds, TFLOP/s of the products that a method makes, share of their floor, and peak memory.

    Args:
        method: Name in `METHODS`.
        problem: A micro-batch.
        share: Of the tokens that are trained on.
        rate: FLOP/s of a large product on this device.
    """

    def run() -> None:
        problem.hidden.grad = problem.weight.grad = None
        METHODS[method](problem, share)

    problem.hidden.grad = problem.weight.grad = None
    found = measure(run, problem.hidden.device, REPEATS)
    products = FLOPS.get(method, lambda share: PRODUCTS_OF_OTHERS)(share)
    flops = products * 2 * problem.hidden.numel() * len(problem.weight)
    seconds = found.milliseconds / 1e3
    return {
        "ms": found.milliseconds,
        "tflops": flops / seconds / 1e12,
        "floor": flops / rate / seconds,
        "mb": found.memory / 1e6,
    }


def missing(method: str, tiny: bool) -> str:
    """Why a method is not available here."""
    if tiny and method.startswith("compiled"):
        return "left out of a tiny visit"
    return "not installed" if torch.cuda.is_available() else "needs a GPU"


def main(arguments: list[str]) -> int:
    """Records a row for each output layer, share and method."""
    parser = argparse.ArgumentParser(prog="python -m perdure.kernels.visit.speed")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, required=True)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.6])
    parser.add_argument("--elementwise", action="store_true", help="rotary embedding and SwiGLU as well")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    device, record = here(), writer(options.rows)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rate = matmul_rate(device, dtype)
    record(kind="rate", tflops=rate / 1e12)
    tokens = 24 if options.tiny else TOKENS
    for head, shape in (TINY if options.tiny else {name: HEADS[name] for name in options.heads}).items():
        problem = make_problem(*shape, tokens, dtype, device)
        for share in options.shares:
            for method in options.methods:
                if method.startswith("scoring") and share != options.shares[0]:
                    continue  # selects nothing
                of = {"head": head, "tokens": tokens, "k": share, "method": method}
                if not is_available(method, options.tiny, device.type == "cuda"):
                    record(**of, failed=missing(method, options.tiny))
                    continue
                tried(record, of, partial(timed, method, problem, share, rate))
        del problem
    if options.elementwise:
        sizes = argparse.Namespace(tiny=options.tiny, tokens=[TOKENS], repeats=REPEATS)
        for row in elementwise(device, dtype, sizes):
            record(**row)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
