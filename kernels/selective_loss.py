"""Selective-token loss (RHO-1): forward over all tokens, backward over the selected ones.

This file is the torch implementation, and the reference that fused kernels are tested against. The interface works
on the last hidden states and the (vocabulary-sharded) output weight, so that an implementation is free never to
materialise the logits.

Source: Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need" (arXiv 2404.07965), equations 3 to 5.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.kernels.select import Scope, select_tokens


def selective_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    valid: Tensor,
    reference_nll: Tensor | None = None,
    k: float = 1.0,
    scope: Scope = "microbatch",
    always: Tensor | None = None,
    vocab_size: int,
    tp_group: dist.ProcessGroup | None = None,
    dp_group: dist.ProcessGroup | None = None,
    selected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-token cross entropy of a linear output layer, differentiable at the selected tokens only.

    Args:
        hidden: [batch, sequence, D], input of the output layer, equal on all ranks of `tp_group`.
        weight: [V / tp, D], this rank's rows of the output layer.
        labels: int64 [batch, sequence], ids over the whole vocabulary.
        valid: bool [batch, sequence], tokens that count.
        reference_nll: float32 [batch, sequence], see `select_tokens`.
        k: Share of valid tokens to train on; 1 is the plain loss, bit for bit.
        scope: See `select_tokens`.
        always: See `select_tokens`.
        vocab_size: True size of the vocabulary; rows of `weight` beyond it are padding and get no probability.
        tp_group: Ranks that hold the other rows of `weight`; None: this rank holds all.
        dp_group: Ranks whose tokens compete under `dp_microbatch`; None: this rank alone.
        selected: bool [batch, sequence], a selection made before, in place of one by `k` and `scope`.

    Returns:
        nll, float32 [batch, sequence], of every token, and selected, bool [batch, sequence]. The gradient of `nll`
        flows to `hidden` and `weight` through the selected tokens alone; that of `hidden` is summed over `tp_group`.
    """
    return _SelectiveLinearCrossEntropy.apply(
        hidden,
        weight,
        labels,
        valid,
        reference_nll,
        k,
        scope,
        always,
        vocab_size,
        tp_group,
        dp_group,
        selected,
    )


class _SelectiveLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden,
        weight,
        labels,
        valid,
        reference_nll,
        k,
        scope,
        always,
        vocab_size,
        tp_group,
        dp_group,
        selected,
    ):
        tp_rank = dist.get_rank(tp_group) if tp_group is not None else 0
        vocab_start = tp_rank * weight.shape[0]
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits = (rows @ weight.t()).float()
        if (padding := vocab_start + weight.shape[0] - vocab_size) > 0:
            # Finite, so that a shard of nothing but padding has no NaN.
            logits[:, -min(padding, weight.shape[0]) :] = torch.finfo(torch.float32).min
        log_probs = torch.log_softmax(logits, dim=1)  # over this shard
        own_labels = labels.reshape(-1) - vocab_start
        is_own = (own_labels >= 0) & (own_labels < weight.shape[0])
        own_labels = own_labels.clamp(0, weight.shape[0] - 1)
        target = log_probs.gather(1, own_labels[:, None])[:, 0]
        nll, shift = _combine(target, is_own, logits[:, 0] - log_probs[:, 0], tp_group)
        del logits
        nll = nll.view(labels.shape)
        if selected is None:
            selected = select_tokens(
                nll, reference_nll, valid, k=k, scope=scope, always=always, group=dp_group
            )
        else:
            selected = selected.clone()  # an input cannot be an output
        index = selected.reshape(-1).nonzero()[:, 0]
        if any(ctx.needs_input_grad):
            everything = len(index) == len(rows)
            pick = (lambda x: x) if everything else (lambda x: x.index_select(0, index))
            ctx.save_for_backward(
                pick(rows), weight, pick(log_probs), pick(shift), pick(own_labels), pick(is_own), index
            )
        ctx.shape, ctx.tp_group = hidden.shape, tp_group
        ctx.mark_non_differentiable(selected)
        return nll, selected

    @staticmethod
    def backward(ctx, grad_nll, _):
        rows, weight, log_probs, shift, own_labels, is_own, index = ctx.saved_tensors
        grad = grad_nll.reshape(-1).index_select(0, index)
        if ctx.tp_group is not None:
            log_probs += shift[:, None]
        grad_logits = log_probs.exp_()  # in place: the probabilities are this function's own
        grad_logits[torch.arange(len(index), device=index.device), own_labels] -= is_own.float()
        grad_logits = grad_logits.mul_(grad[:, None]).to(weight.dtype)
        grad_rows = grad_logits @ weight
        if ctx.tp_group is not None:
            dist.all_reduce(grad_rows, group=ctx.tp_group)
        grad_weight = grad_logits.t() @ rows
        if len(index) < ctx.shape[0] * ctx.shape[1]:
            whole = grad_rows.new_zeros(ctx.shape[0] * ctx.shape[1], ctx.shape[2])
            grad_rows = whole.index_copy_(0, index, grad_rows)
        return grad_rows.view(ctx.shape), grad_weight, *[None] * 10


def _combine(
    target: Tensor, is_own: Tensor, lse: Tensor, tp_group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Joins the shards' results, in rank order.

    Every rank adds the same numbers in the same order, so all get the same bits and select the same tokens.

    Args:
        target: float32 [tokens], log-probability of the label within this shard.
        is_own: bool [tokens], whether the label is in this shard.
        lse: float32 [tokens], this shard's log-sum-exp.
        tp_group: Ranks that hold the other shards.

    Returns:
        nll, float32 [tokens], over the whole vocabulary, and shift, float32 [tokens]: what a log-probability within
        this shard lacks to one over the whole vocabulary.
    """
    if tp_group is None:
        return -target, torch.zeros_like(lse)
    own = torch.stack([lse, (target + lse).masked_fill(~is_own, 0.0)])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(tp_group))]
    dist.all_gather(parts, own, group=tp_group)
    gathered = torch.stack(parts)
    whole = torch.logsumexp(gathered[:, 0], dim=0)
    return whole - gathered[:, 1].sum(0), lse - whole
