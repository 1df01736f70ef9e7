"""The loss with all logits in memory: the torch reference that the other implementations are tested against."""

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.kernels.inputs import LossInputs
from perdure.kernels.parallel import gather_ranks, matmul_fp32


def log_probabilities(
    inputs: LossInputs, tp_group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-softmax of the logits.

    Args:
        inputs: All tokens.
        tp_group: Ranks that hold the other rows of `weight`.

    Returns:
        nll, float32 [N]; log-sum-exp over the whole vocabulary, float32 [N]; log-probabilities within this rank's rows,
        float32 [N, V / tp]; and what they lack to log-probabilities over the whole vocabulary, float32 [N].
    """
    weight, softcap = inputs.weight, inputs.softcap
    logits = matmul_fp32(inputs.rows, weight.t())
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    # Finite, so that a shard of nothing but padding has no NaN.
    logits[:, inputs.columns :] = torch.finfo(torch.float32).min
    log_probs = torch.log_softmax(logits, dim=1)
    is_own, places = _places(inputs.labels, weight)
    target = log_probs.gather(1, places[:, None])[:, 0]
    lse = logits[:, 0] - log_probs[:, 0]
    if tp_group is None:
        return -target, lse, log_probs, torch.zeros_like(lse)
    # In rank order, so that all ranks get the same bits and select the same tokens.
    parts = gather_ranks(torch.stack([lse, (target + lse).masked_fill(~is_own, 0.0)]), tp_group)
    whole = torch.logsumexp(parts[:, 0], dim=0)
    return whole - parts[:, 1].sum(0), whole, log_probs, lse - whole


def entropy(log_probs: Tensor, shift: Tensor, tp_group: dist.ProcessGroup | None) -> Tensor:
    """-sum p log p over the whole vocabulary, float32 [N], from the results of `log_probabilities`."""
    log_probs = log_probs + shift[:, None]
    own = -(log_probs.exp() * log_probs).sum(1)
    return own if tp_group is None else gather_ranks(own, tp_group).sum(0)


def divergence(of_both: list[Tensor], tp_group: dist.ProcessGroup | None) -> Tensor:
    """KL(teacher || student) in nats, float32 [N], from the last two results of `log_probabilities`, the student's first."""
    log_probs, shift, their_log_probs, their_shift = of_both
    ours, theirs = log_probs + shift[:, None], their_log_probs + their_shift[:, None]
    own = (theirs.exp() * (theirs - ours)).sum(1)
    return own if tp_group is None else gather_ranks(own, tp_group).sum(0)


def gradients(
    inputs: LossInputs,
    lse: Tensor,
    log_probs: Tensor,
    shift: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    teacher: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """This rank's part of the gradient of the rows, [M, D], and the gradient of the weight, [V / tp, D].

    Args as for `log_probabilities` and `chunked.gradients`; `log_probs` is overwritten. `teacher`: its log-probabilities,
    what they lack, and the gradient of each token's KL(teacher || student), float32 [M].
    """
    rows, weight, softcap = inputs.rows, inputs.weight, inputs.softcap
    slope = None
    if softcap:
        slope = 1 - ((log_probs + (lse + shift)[:, None]) / softcap) ** 2
        slope[:, inputs.columns :] = 0
    log_probs += shift[:, None]
    grad_logits = log_probs.exp_()
    pull = None
    if teacher is not None:
        theirs, their_shift, weight_of_kl = teacher
        pull = (grad_logits - (theirs + their_shift[:, None]).exp()) * weight_of_kl[:, None]
    if scale is not None:
        grad_logits *= scale[:, None]
    is_own, places = _places(inputs.labels, weight)
    grad_logits[torch.arange(len(rows), device=rows.device), places] -= is_own.float()
    grad_logits *= grad[:, None]
    if pull is not None:
        grad_logits += pull
    if slope is not None:
        grad_logits *= slope
    grad_logits = grad_logits.to(weight.dtype)
    return grad_logits @ weight, grad_logits.t() @ rows


def _places(labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each label is one of this rank's, and a row of `weight` in any case."""
    return (labels >= 0) & (labels < len(weight)), labels.clamp(0, len(weight) - 1)
