"""Benchmark of the selective-token loss: `python -m perdure.kernels.bench`; see `--help`.

One call checks every method against float64, then times it: forward, selection and backward. (The scoring methods are
the forward pass alone.) Activations are peaked,
x = a W[y] + noise with a drawn per token, so that losses spread as in a trained model: kernels that skip small
probabilities look too good on random ones. The floor is the matrix products alone, at the rate measured in this run.
Last come whole training steps (`bench_step`).
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.data_recipes.bench_step import SHAPES, training_steps
from perdure.kernels.bench_measure import matmul_rate, measure
from perdure.kernels.bench_methods import FLOPS, METHODS, Problem
from perdure.kernels.rope import rotary
from perdure.kernels.swiglu import swiglu

HEADS = {
    "Llama-3-8B": (4096, 128256),
    "Qwen3-8B": (4096, 151936),
    "Qwen3-0.6B": (1024, 151936),
    "SmolLM2": (576, 49152),
}
"""Width and vocabulary of output layers."""
TINY = {"tiny": (40, 100)}
LARGE = {"more than 2^31 logits": (128, 131072)}
LARGE_TOKENS = 20480
TOLERANCES = {"fp32": 1e-5, "bf16": 1e-2}
"""Relative norm of a gradient's error. Exponentials kept in bf16 have that of bf16; what is not ours is not judged."""
NLL_TOLERANCE = 2e-3
"""Nats that a loss, an entropy or a KL may be off by. Products of either precision are added up in fp32; where tensor cores cut
off instead of rounding, each of 4096 / 16 sums may take a unit of the last place of a logit near 14, 2e-4 in all."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_problem(width: int, vocab: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """Random peaked activations, [1, tokens, width], the same on every machine of a kind."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    weight = normal(vocab, width).div_(width**0.5).to(dtype)
    labels = torch.randint(0, vocab, (1, tokens), generator=generator, device=device)
    peak = (
        1.2
        * torch.log(torch.tensor(float(vocab)))
        * torch.rand(1, tokens, 1, generator=generator, device=device)
    )
    hidden = (peak * F.embedding(labels, weight).float() + normal(1, tokens, width)).to(dtype)
    reference = normal(1, tokens).abs()
    return Problem(hidden.requires_grad_(), weight.requires_grad_(), labels, reference)


def errors(method: Callable, problem: Problem, k: float) -> dict[str, float]:
    """Largest absolute error of a loss, and relative norms of the errors of both gradients, against float64."""
    problem.hidden.grad = problem.weight.grad = None
    nll, selected = method(problem, k)
    nll = nll.detach()
    weight = problem.weight.detach().double()
    hidden, labels = problem.hidden.detach()[0].double(), problem.labels[0]
    grad_weight, grad_hidden = torch.zeros_like(weight), torch.zeros_like(hidden)
    worst = hidden.new_zeros(())  # torch's maximum keeps NaN, Python's may lose it
    block = 128  # tokens whose logits exist in float64 at a time
    for begin in range(0, len(labels), block):
        at = slice(begin, begin + block)
        logits, own = hidden[at] @ weight.t(), labels[at, None]
        exact = (logits.logsumexp(1, keepdim=True) - logits.gather(1, own))[:, 0]
        worst = torch.maximum(worst, (nll[0, at] - exact).abs().max())
        delta = logits.softmax(1)
        delta.scatter_(1, own, delta.gather(1, own) - 1)
        delta *= selected[0, at, None]
        grad_hidden[at], grad_weight = delta @ weight, grad_weight.addmm_(delta.t(), hidden[at])

    def gap(found: Tensor, expected: Tensor) -> float:
        return float((found.double() - expected).norm() / expected.norm())

    return {
        "nll": float(worst),
        "grad_hidden": gap(problem.hidden.grad[0], grad_hidden),
        "grad_weight": gap(problem.weight.grad, grad_weight),
    }


def is_exact(found: dict[str, float], tolerance: float) -> bool:
    """Whether both gradients of `errors` are within a tolerance, and the losses within `NLL_TOLERANCE`; NaN is not."""
    return (
        found["nll"] < NLL_TOLERANCE and found["grad_hidden"] < tolerance and found["grad_weight"] < tolerance
    )


def _say(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def main(arguments: list[str]) -> int:
    """Prints Markdown tables, writes JSON if asked; returns 1 if a method of ours is not exact enough."""
    options = parse(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    report: dict = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        "matmul_tflops": matmul_rate(device, DTYPES[options.dtype]) / 1e12,
        "errors": [],
        "timings": [],
        "elementwise": [],
        "steps": [],
    }
    heads = TINY if options.tiny else {name: HEADS[name] for name in options.heads}
    print(", ".join(f"{key} {value}" for key, value in report.items() if not isinstance(value, list)), "\n")

    failed = False
    _say("head", "method", "nll, nats", "grad hidden", "grad weight")
    _say(*["---"] * 5)
    extra = LARGE if device.type == "cuda" else {}
    for head, shape in (heads | extra).items():
        tokens = LARGE_TOKENS if head in extra else min(1024, *options.tokens)
        problem = make_problem(*shape, tokens, DTYPES[options.dtype], device)
        for method in [name for name in options.methods if not name.startswith("scoring")]:
            try:
                found = errors(METHODS[method], problem, 0.6)
            except _may_fail(method) as error:
                print(f"{head}, {method}: {_failure(error)}", file=sys.stderr)
                continue
            report["errors"].append({"head": head, "tokens": tokens, "method": method, **found})
            _say(head, method, *(f"{value:.1e}" for value in found.values()))
            if method in FLOPS:
                tolerance = TOLERANCES["bf16" if method == "cached" else options.dtype]
                failed |= not is_exact(found, tolerance)
    print()

    _say("head", "tokens", "k", "method", "ms", "floor / ms", "peak MB")
    _say(*["---"] * 7)
    for head, (width, vocab) in heads.items():
        for tokens in options.tokens:
            problem = make_problem(width, vocab, tokens, DTYPES[options.dtype], device)
            for share in options.shares:
                for method in options.methods:
                    row = {"head": head, "tokens": tokens, "k": share, "method": method}
                    row |= time_method(
                        method, problem, share, device, options.repeats, report["matmul_tflops"]
                    )
                    report["timings"].append(row)
                    _say(*(f"{x:.3g}" if isinstance(x, float) else x for x in row.values()))
    print()

    _say("operation", "impl", "ms", "GB/s")
    _say(*["---"] * 4)
    for row in elementwise(device, DTYPES[options.dtype], options):
        report["elementwise"].append(row)
        _say(*(f"{x:.3g}" if isinstance(x, float) else x for x in row.values()))
    print()

    _say("model", "parts", "k", "ms", "tokens/s", "MFU", "peak MB", "first loss")
    _say(*["---"] * 8)
    for model in options.models:
        for row in training_steps(model, options.dtype, options.repeats):
            report["steps"].append(row)
            _say(*(f"{x:.4g}" if isinstance(x, float) else x for x in row.values()))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    if failed:
        print("error: a method of ours is not exact enough, see the first table", file=sys.stderr)
    return int(failed)


def time_method(
    method: str, problem: Problem, share: float, device: torch.device, repeats: int, tflops: float
) -> dict:
    """Milliseconds, share of the floor, and megabytes of one method; nothing but the reason in `ms` if it fails."""

    def run() -> None:
        problem.hidden.grad = problem.weight.grad = None
        METHODS[method](problem, share)

    problem.hidden.grad = problem.weight.grad = None
    try:
        found = measure(run, device, repeats)
    except _may_fail(method) as error:
        return {"ms": _failure(error), "floor": None, "mb": None}
    products = 2 * problem.hidden.numel() * len(problem.weight)
    floor = FLOPS.get(method, lambda k: 3)(share) * products / tflops / 1e9
    return {"ms": found.milliseconds, "floor": floor / found.milliseconds, "mb": found.memory / 1e6}


def _may_fail(method: str) -> type[Exception]:
    """What a method may raise without ending the benchmark: other packages' ways, anything."""
    return torch.OutOfMemoryError if method in FLOPS else Exception


def _failure(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"failed: {type(error).__name__}: {error}".splitlines()[0]


def elementwise(device: torch.device, dtype: torch.dtype, options: argparse.Namespace) -> Iterator[dict]:
    """Rotary embedding and SwiGLU, forward and backward: milliseconds, and bytes that must move per second."""
    tokens, heads, head_dim, width = (8, 2, 8, 40) if options.tiny else (options.tokens[0], 32, 128, 16384)
    queries = torch.randn(tokens, 1, heads, head_dim, device=device).to(dtype).requires_grad_()
    angles = torch.randn(2, tokens, 1, 1, head_dim // 2, device=device).to(dtype)
    pairs = torch.randn(tokens, 2 * width, device=device).to(dtype).requires_grad_()
    operations = {
        # Reads and writes each way; SwiGLU reads 2 and writes 1, and then reads 3 and writes 2.
        "rotary": (
            lambda impl: rotary(queries, *angles, impl=impl).backward(queries.detach()),
            4 * queries.numel(),
        ),
        "swiglu": (
            lambda impl: swiglu(pairs, impl=impl).backward(pairs.detach()[:, :width]),
            4 * pairs.numel(),
        ),
    }
    for name, (run, numbers) in operations.items():
        for impl in (
            ("triton", "torch") if is_available("triton", options.tiny, device.type == "cuda") else ("torch",)
        ):
            found = measure(partial(run, impl), device, options.repeats)
            rate = numbers * dtype.itemsize / found.milliseconds / 1e6
            yield {"operation": name, "impl": impl, "ms": found.milliseconds, "gb_per_s": rate}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; what is not given is everything that this machine has."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="python -m perdure.kernels.bench",
        description="Checks the selective-token loss against float64 and times it beside other ways.",
        epilog="Memory errors on a GPU: compute-sanitizer --tool memcheck python -m perdure.kernels.bench "
        "--heads SmolLM2 --tokens 2048 --shares 0.6 --methods triton cached --repeats 1",
    )
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS) if cuda else ["SmolLM2"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 8192, 32768] if cuda else [4096])
    parser.add_argument(
        "--shares", nargs="+", type=float, default=[0.5, 0.6, 0.7, 1.0] if cuda else [0.6, 1.0]
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: those that are installed")
    parser.add_argument(
        "--models",
        nargs="*",
        choices=SHAPES,
        default=["Llama-3.2-1B" if cuda else "SmolLM2-135M"],
        help="whole training steps of these models; none without a name",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bf16" if cuda else "fp32")
    parser.add_argument("--repeats", type=int, default=50, help="at most; fewer where one takes long")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="a problem of seconds, by the methods that need no compiler; without a GPU, set TRITON_INTERPRET=1",
    )
    options = parser.parse_args(arguments)
    if options.tiny:
        options.tokens, options.shares, options.repeats, options.models = [24], [0.6, 1.0], 1, ["tiny"]
    if options.methods is None:
        options.methods = [name for name in METHODS if is_available(name, options.tiny, cuda)]
    return options


def is_available(method: str, tiny: bool, cuda: bool) -> bool:
    """Compiled methods and fused kernels are for GPUs; a tiny run interprets ours."""
    packages = {"liger": "liger_kernel", "cce": "cut_cross_entropy", "cce exact": "cut_cross_entropy"}
    if method in packages:
        return cuda and find_spec(packages[method]) is not None
    if method.startswith("compiled"):
        return cuda and not tiny
    if method in ("triton", "cached", "scoring, triton"):
        return (cuda or tiny) and find_spec("triton") is not None
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
