"""Whether the kernels are right: losses, gradients, KL and entropies against float64, more than 2^31 logits, equal bits."""

from functools import partial
from typing import Any

import torch

from perdure.kernels import linear_nll, rotary, selective_linear_cross_entropy, swiglu
from perdure.kernels.bench import (
    LARGE,
    LARGE_TOKENS,
    NLL_TOLERANCE,
    TINY,
    TOLERANCES,
    errors,
    is_exact,
    make_problem,
)
from perdure.kernels.bench_methods import METHODS, Problem
from perdure.kernels.visit.rows import Record, here, run_part, tried

HEADS = {"Llama-3-8B": (4096, 128256), "odd vocabulary": (1024, 50257), "SmolLM2": (576, 49152)}
"""Width and vocabulary. 16 does not divide the second's vocabulary, which makes the last stores scalar."""
TOKENS = 512
KL_TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}
"""Relative norm of the error of a KL's gradient, which is a difference of two probabilities."""
SHARE = 0.6


def exact(record: Record, tiny: bool) -> None:
    """Records the error of each method and kernel, and whether it is small enough and the same twice."""
    device = here()
    heads, tokens = (TINY, 24) if tiny else (HEADS, TOKENS)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        for head, shape in heads.items():
            problem = make_problem(*shape, tokens, dtype, device)
            of = {"head": head, "tokens": tokens, "dtype": precision}
            for method in ("triton", "cached", "chunked"):
                tried(record, of | {"what": method}, partial(_judged, method, problem, precision))
            tried(record, of | {"what": "entropy"}, partial(entropy_error, problem))
            tried(record, of | {"what": "KL to a teacher"}, partial(kl_errors, problem, precision))
            tried(record, of | {"what": "same bits"}, partial(same_bits, problem))
            del problem
        if precision == "bf16":
            tried(record, {"what": "rotary and SwiGLU"}, partial(elementwise_errors, device, tiny))
            for head, shape in ({} if tiny else LARGE).items():
                problem = make_problem(*shape, LARGE_TOKENS, dtype, device)
                of = {"head": head, "tokens": LARGE_TOKENS, "dtype": precision}
                for method in ("triton", "chunked"):
                    tried(record, of | {"what": method}, partial(_judged, method, problem, precision))
                tried(record, of | {"what": "same bits"}, partial(same_bits, problem))
                del problem


def _judged(method: str, problem: Problem, precision: str) -> dict[str, Any]:
    found = errors(METHODS[method], problem, SHARE)
    tolerance = TOLERANCES["bf16" if method == "cached" else precision]
    return found | {"exact": is_exact(found, tolerance)}


def entropy_error(problem: Problem) -> dict[str, Any]:
    """Largest error of an entropy, in nats, against float64."""
    size = len(problem.weight)
    _, found = linear_nll(
        problem.hidden, problem.weight, problem.labels, vocab_size=size, entropy=True, impl="triton"
    )
    log_probs = (problem.hidden.detach()[0].double() @ problem.weight.detach().double().t()).log_softmax(1)
    error = float((found[0].double() + (log_probs.exp() * log_probs).sum(1)).abs().max())
    return {"entropy": error, "exact": error < NLL_TOLERANCE}


def kl_errors(problem: Problem, precision: str) -> dict[str, Any]:
    """Largest error of a KL, in nats, and the relative error of its gradient to the hidden states, against float64."""
    generator = torch.Generator(problem.hidden.device).manual_seed(1)
    noise = torch.randn(problem.hidden.shape, generator=generator, device=problem.hidden.device)
    theirs = (problem.hidden.detach().float() + 0.5 * noise).to(problem.hidden.dtype)
    hidden = problem.hidden.detach().clone().requires_grad_()
    result = selective_linear_cross_entropy(
        hidden,
        problem.weight.detach(),
        problem.labels,
        valid=torch.ones_like(problem.labels, dtype=torch.bool),
        vocab_size=len(problem.weight),
        token_weight=torch.zeros_like(problem.reference),
        teacher_hidden=theirs,
        teacher_weight=problem.weight.detach(),
        kl_weight=torch.ones_like(problem.reference),
        impl="triton",
    )
    result.loss.sum().backward()
    weight = problem.weight.detach().double()
    ours, their = ((x.detach()[0].double() @ weight.t()).log_softmax(1) for x in (hidden, theirs))
    kl = (their.exp() * (their - ours)).sum(1)
    gradient = (ours.exp() - their.exp()) @ weight
    assert hidden.grad is not None and result.kl is not None
    error = float((result.kl[0].double() - kl).abs().max())
    relative = float((hidden.grad[0].double() - gradient).norm() / gradient.norm())
    exact = error < NLL_TOLERANCE and relative < KL_TOLERANCES[precision]
    return {"kl": error, "grad_hidden": relative, "exact": exact}


def same_bits(problem: Problem) -> dict[str, Any]:
    """Whether two runs of forward, selection and backward give equal bits."""
    runs = []
    for _ in range(2):
        problem.hidden.grad = problem.weight.grad = None
        nll, selected = METHODS["triton"](problem, SHARE)
        runs.append((nll.detach(), selected, problem.hidden.grad, problem.weight.grad))
    return {"exact": all(torch.equal(a, b) for a, b in zip(*runs))}


def elementwise_errors(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Largest difference of the fused operations from torch's in fp32, forward and backward."""
    generator = torch.Generator(device).manual_seed(0)
    tokens, heads, width = (8, 2, 40) if tiny else (1024, 32, 8192)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    query, cosine, sine, pairs = (
        normal(tokens, 1, heads, 64),
        normal(tokens, 1, 1, 32),
        normal(tokens, 1, 1, 32),
        normal(tokens, 2 * width),
    )
    found = {}
    for name, x, run in (
        ("rotary", query, lambda x, impl: rotary(x, cosine, sine, impl=impl)),
        ("swiglu", pairs, lambda x, impl: swiglu(x, impl=impl)),
    ):
        both = []
        for impl in ("triton", "torch"):
            leaf = x.clone().requires_grad_()
            result = run(leaf, impl)
            result.square().sum().backward()
            both.append((result.detach(), leaf.grad))
        found[name] = float(torch.stack([(a - b).abs().max() / b.abs().max() for a, b in zip(*both)]).max())
    return found | {"exact": all(error < 1e-5 for error in found.values())}


if __name__ == "__main__":
    run_part(exact)
