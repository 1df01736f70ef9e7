"""The loss as one operation of autograd: losses of all tokens forward, gradients of those that need one backward."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.kernels import chunked, kl, reference
from perdure.kernels.inputs import LossInputs, WeightGradient
from perdure.kernels.parallel import gather_sequence, merge_ranks, scatter_sequence


@dataclass(frozen=True)
class Call:
    """What the operation is asked for, besides the tensors that may have a gradient; see `selective_linear_cross_entropy`."""

    labels: Tensor  # [N], relative to this rank's rows of the weight
    shape: torch.Size
    select: Callable[[Tensor], Tensor]
    token_weight: Tensor | None  # [N]
    weigh: Callable[[Tensor], Tensor] | None
    teacher: kl.Teacher | None
    columns: int
    tp_group: dist.ProcessGroup | None
    sequence_parallel: bool
    main_grad: Tensor | None
    cache: int
    softcap: float | None
    z_loss: float
    impl: str

    def __post_init__(self):
        assert self.cache == 0 or (self.impl == "triton" and self.softcap is None and self.teacher is None)
        # A negative weight would reward a large log Z.
        assert self.weigh is None or (self.token_weight is None and self.teacher is None and self.z_loss == 0)
        assert self.main_grad is None or self.main_grad.dtype == torch.float32


class SelectiveLinearCrossEntropy(torch.autograd.Function):
    """(hidden, weight, call) -> loss, selected, nll and KL, as `SelectiveLoss` has them."""

    @staticmethod
    def forward(ctx, hidden, weight, call):
        """Losses of all tokens; keeps the rows of those that a gradient will be asked for."""
        whole = gather_sequence(hidden, call.tp_group) if call.sequence_parallel else hidden
        rows = whole.reshape(-1, whole.shape[-1])
        inputs = LossInputs(rows, weight, call.labels, call.columns, call.softcap)
        teacher = None
        if call.teacher is not None:
            parts = call.tp_group if call.sequence_parallel else None
            teacher = kl.teacher_inputs(call.teacher, inputs, parts)
        losses = _by_reference if call.impl == "torch" else _by_statistics
        # Kept for the backward pass: of the rows that it needs, of all, and of those with a KL.
        nll, lse, divergence, by_row, cached, of_kl = losses(inputs, teacher, call)
        loss = nll + call.z_loss * lse**2 if call.z_loss else nll
        selected = call.select(nll.view(call.shape))
        needed, factor = selected.reshape(-1), call.token_weight
        if call.weigh is not None:
            factor = call.weigh(nll.view(call.shape)).reshape(-1)
        if divergence is not None:
            factor = needed.float() if factor is None else factor * needed
            needed = needed | (call.teacher.kl_weight != 0)
        if factor is not None:
            loss = loss * factor
        if divergence is not None:
            loss = loss + call.teacher.kl_weight * divergence
            divergence = divergence.view(call.shape)
        index = needed.nonzero()[:, 0]
        if any(ctx.needs_input_grad):
            everything = len(index) == len(rows)
            pick = (lambda x: x) if everything else (lambda x: x.index_select(0, index))
            ctx.kept = (len(by_row), len(cached))
            kept = [pick(x) for x in (rows, call.labels, lse, *by_row)]
            ctx.save_for_backward(weight, index, *kept, *cached, *of_kl)
        ctx.call, ctx.shape, ctx.factor = call, whole.shape, factor
        nll = nll.clone() if loss is nll else nll
        ctx.mark_non_differentiable(selected, nll, *(() if divergence is None else (divergence,)))
        return loss.view(call.shape), selected, nll.view(call.shape), divergence

    @staticmethod
    def backward(ctx, grad_loss, *_):
        """Gradients of `hidden` and `weight`; that of `weight` may go into `main_grad` instead, and a frozen one has none."""
        call, frozen = ctx.call, not ctx.needs_input_grad[1]
        weight, index, rows, labels, lse, *kept = ctx.saved_tensors
        by_row, kept = kept[: ctx.kept[0]], kept[ctx.kept[0] :]
        cached, of_kl = kept[: ctx.kept[1]], kept[ctx.kept[1] :]
        upstream = grad_loss.reshape(-1).index_select(0, index).float()
        grad = upstream if ctx.factor is None else upstream * ctx.factor.index_select(0, index)
        grad_kl = None if call.teacher is None else upstream * call.teacher.kl_weight.index_select(0, index)
        scale = 1 + 2 * call.z_loss * lse if call.z_loss else None
        accumulate = call.main_grad is not None
        assert not (accumulate and frozen)
        inputs = LossInputs(rows, weight, labels, call.columns, call.softcap)
        if call.impl == "torch":
            log_probs, shift, *of_teacher = by_row
            teacher = (*of_teacher, grad_kl) if of_teacher else None
            grad_rows, grad_weight = reference.gradients(inputs, lse, log_probs, shift, grad, scale, teacher)
            if accumulate:
                call.main_grad.add_(grad_weight)
        else:
            grad_weight = call.main_grad if accumulate else None if frozen else torch.empty_like(weight)
            into, (maximum, log_total) = WeightGradient(grad_weight, accumulate), by_row
            term = kl.backward_term(inputs, index, call.teacher, of_kl, grad_kl) if of_kl else None
            if call.impl == "triton":
                cached = (index, *cached) if cached else ()
                grad_rows = fused().gradients(inputs, maximum, log_total, grad, scale, into, cached, term)
            else:
                grad_rows = chunked.gradients(inputs, maximum, log_total, grad, scale, into, term)
        grad_hidden = _spread(grad_rows.to(rows.dtype), index, ctx.shape, call)
        return grad_hidden, _dummy_gradient(weight) if accumulate else None if frozen else grad_weight, None


def _by_reference(inputs: LossInputs, teacher: LossInputs | None, call: Call) -> tuple:
    """`_by_statistics` with all logits in memory."""
    nll, lse, log_probs, shift = reference.log_probabilities(inputs, call.tp_group)
    if teacher is None or call.teacher is None:
        return nll, lse, None, [log_probs, shift], (), ()
    without = call.teacher.kl_weight == 0
    # Whatever the teacher's hidden states are there, its probabilities are finite.
    teacher = replace(teacher, rows=teacher.rows.masked_fill(without[:, None], 0.0))
    _, _, *theirs = reference.log_probabilities(teacher, call.tp_group)
    kept = [log_probs, shift, *theirs]
    return nll, lse, reference.divergence(kept, call.tp_group).masked_fill(without, 0.0), kept, (), ()


def _by_statistics(inputs: LossInputs, teacher: LossInputs | None, call: Call) -> tuple:
    """Cross entropy, log-sum-exp and KL of every token, float32 [N], and what is kept for the backward pass."""
    asked = torch.empty(0) if call.teacher is None else call.teacher.places()
    everywhere = len(asked) == len(inputs.rows)
    stats, cached = _statistics(inputs, teacher if everywhere else None, call)
    maximum, total, target = stats[:3]
    log_total = total.log()
    # In this order large logits lose nothing: label and maximum are near each other.
    nll, lse = log_total - (target - maximum), maximum + log_total
    if teacher is None:
        return nll, lse, None, [maximum, log_total], cached, ()
    divergence, of_kl = torch.zeros_like(nll), list[Tensor]()
    if len(asked):
        theirs = teacher.pick(asked)
        if not everywhere:
            stats, _ = _statistics(inputs.pick(asked), theirs, call)
        divergence[asked], kept = kl.divergence(stats)
        of_kl = [asked, theirs.rows, kept]
    return nll, lse, divergence, [maximum, log_total], cached, of_kl


def _statistics(inputs: LossInputs, teacher: LossInputs | None, call: Call) -> tuple[Tensor, tuple]:
    """Softmax statistics over the whole vocabulary, and what was kept of exponentials."""
    if call.impl == "triton":
        stats, cached = fused().statistics(inputs, cache=call.cache, teacher=teacher)
    else:
        stats, cached = chunked.statistics(inputs, teacher=teacher), ()
    return merge_ranks(stats, call.tp_group), cached


def _spread(grad_rows: Tensor, index: Tensor, shape: torch.Size, call: Call) -> Tensor:
    """Gradient of the hidden states, from that of the selected rows, summed over the ranks."""
    if call.tp_group is not None and not call.sequence_parallel:
        dist.all_reduce(grad_rows, group=call.tp_group)
    if len(index) < shape[0] * shape[1]:
        whole = grad_rows.new_zeros(shape[0] * shape[1], shape[2])
        grad_rows = whole.index_copy_(0, index, grad_rows)
    grad = grad_rows.view(shape)
    return scatter_sequence(grad, call.tp_group) if call.sequence_parallel else grad


def _dummy_gradient(weight: Tensor) -> Tensor | None:
    """What autograd gets when the gradient is in `main_grad` already; Megatron's hooks want a tensor.

    Zeros if `weight.zero_out_wgrad` (tied embeddings), uninitialised otherwise; None where nothing asks for it.
    """
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    zeros = getattr(weight, "zero_out_wgrad", False)
    return torch.zeros_like(weight) if zeros else torch.empty_like(weight)


def fused():
    """The module of Triton kernels, imported when needed: not every machine has Triton."""
    from perdure.kernels import triton_loss

    return triton_loss
