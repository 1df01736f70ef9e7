"""The ways to train on selected tokens that `bench` compares: ours, plain PyTorch's and those of other packages."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perdure.kernels.nll import linear_nll
from perdure.kernels.select import select_tokens
from perdure.kernels.selective import Impl, selective_linear_cross_entropy

CACHE_BYTES = 64 << 30


@dataclass(frozen=True)
class Problem:
    """One micro-batch.

    Attributes:
        hidden: [1, tokens, width], a leaf.
        weight: [vocabulary, width], a leaf.
        labels: int64 [1, tokens].
        reference: float32 [1, tokens], the reference's losses.
    """

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    reference: Tensor


def _ours(impl: Impl, cache: int = 0):
    def run(problem: Problem, k: float) -> tuple[Tensor, Tensor]:
        loss, selected, nll, _ = selective_linear_cross_entropy(
            problem.hidden,
            problem.weight,
            problem.labels,
            valid=torch.ones_like(problem.labels, dtype=torch.bool),
            reference_nll=problem.reference,
            k=k,
            vocab_size=len(problem.weight),
            impl=impl,
            cache=cache,
        )
        (loss * selected).sum().backward()
        return nll, selected

    return run


def _scoring(impl: Impl):
    def run(problem: Problem, k: float) -> Tensor:
        size = len(problem.weight)
        return linear_nll(problem.hidden, problem.weight, problem.labels, vocab_size=size, impl=impl)

    return run


def _select(nll: Tensor, problem: Problem, k: float) -> Tensor:
    valid = torch.ones_like(problem.labels, dtype=torch.bool)
    return select_tokens(nll.detach().float(), problem.reference, valid, k=k)


def _plain_nll(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.t()).float(), labels, reduction="none")


@lru_cache(maxsize=1)
def _compiled_nll():
    return torch.compile(_plain_nll, dynamic=False)


def _from_nll(per_token):
    """Backward through losses per token, of which those not selected get gradient 0."""

    def run(problem: Problem, k: float) -> tuple[Tensor, Tensor]:
        nll = per_token(problem.hidden[0], problem.weight, problem.labels[0])[None]
        selected = _select(nll, problem, k)
        (nll * selected).sum().backward()
        return nll.detach(), selected

    return run


def _in_chunks(hidden: Tensor, weight: Tensor, labels: Tensor, chunks: int = 8) -> Tensor:
    """Compiled, logits of one eighth of the tokens at a time, made again for the backward pass."""
    parts = zip(hidden.chunk(chunks), labels.chunk(chunks))
    return torch.cat([checkpoint(_compiled_nll(), x, weight, y, use_reentrant=False) for x, y in parts])


def _liger(problem: Problem, k: float) -> tuple[Tensor, Tensor]:
    """Liger has no gradients per token: one pass for the losses, and one over the tokens that are not ignored."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    hidden, labels = problem.hidden[0], problem.labels[0]
    with torch.no_grad():
        scores = LigerFusedLinearCrossEntropyLoss(reduction="none")(problem.weight, hidden, labels)[None]
    selected = _select(scores, problem, k)
    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    loss(problem.weight, hidden, labels.masked_fill(~selected[0], -100)).backward()
    return scores, selected


def _cce(exact: bool):
    """Apple's kernels; by default they leave out gradients of small probabilities."""

    def per_token(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        from cut_cross_entropy import LinearCrossEntropyImpl, linear_cross_entropy

        options: dict[str, str | None] = {}
        if exact:  # a name of its own since the release of January 2025
            named = "CCE_EXACT" in LinearCrossEntropyImpl.__members__
            options = {"impl": "cce_exact"} if named else {"filter_eps": None}
        return linear_cross_entropy(hidden, weight, labels, reduction="none", **options)

    return _from_nll(per_token)


METHODS = {
    "triton": _ours("triton"),
    "cached": _ours("triton", CACHE_BYTES),
    "chunked": _ours("chunked"),
    "torch": _ours("torch"),
    "scoring, triton": _scoring("triton"),
    "scoring, chunked": _scoring("chunked"),
    "eager": _from_nll(_plain_nll),
    "compiled": _from_nll(lambda *arguments: _compiled_nll()(*arguments)),
    "compiled, 8 chunks": _from_nll(_in_chunks),
    "liger": _liger,
    "cce": _cce(exact=False),
    "cce exact": _cce(exact=True),
}
"""Each runs forward, selection and backward, and returns nll, float32 [1, tokens], and what was selected."""

FLOPS = {
    "triton": lambda k: 1 + 3 * k,
    "cached": lambda k: 1 + 2 * k,
    "chunked": lambda k: 1 + 3 * k,
    "torch": lambda k: 1 + 2 * k,
    "scoring, triton": lambda k: 1,
    "scoring, chunked": lambda k: 1,
}
"""Matrix products that a method of ours makes, in units of 2 x tokens x width x vocabulary; others make 3 at least."""
