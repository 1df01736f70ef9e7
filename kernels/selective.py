"""Selective-token loss (RHO-1): forward over all tokens, backward over the selected ones, no logits in memory.

Works on the last hidden states and the (vocabulary-sharded) output weight. The forward pass computes every token's
loss, chooses tokens, and keeps the chosen rows alone; the backward pass is dense matrix products over these rows, a
block of the vocabulary at a time. No atomic operations anywhere: the same input gives the same bits.

`selective_linear_cross_entropy` takes all its tensors and settings as single parameters: to autograd it is one operation,
and its callers share no settings that would make a dataclass.

Source: Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need" (arXiv 2404.07965), equations 3 to 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.kernels import chunked, reference
from perdure.kernels.inputs import LossInputs, WeightGradient
from perdure.kernels.parallel import gather_sequence, merge_ranks, scatter_sequence, shard_columns
from perdure.kernels.select import Scope, select_tokens

Impl = Literal["auto", "triton", "chunked", "torch"]
"""`triton`: fused kernels (CUDA, or the CPU under Triton's interpreter). `chunked`: plain torch, a block of the
vocabulary at a time. `torch`: all logits in memory, the reference. `auto`: `choose_impl`."""

TORCH_LOGITS = 1 << 24
"""Logits up to which a CPU holds them all (64 MiB): recomputing them would cost more than it saves."""


class SelectiveLoss(NamedTuple):
    """Results of `selective_linear_cross_entropy`, each [batch, sequence].

    Attributes:
        loss: float32, token_weight * (nll + z_loss * lse^2) of every token, differentiable at the selected ones.
        selected: bool.
        nll: float32, cross entropy in nats of every token, without gradient.
    """

    loss: Tensor
    selected: Tensor
    nll: Tensor


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
    selected: Tensor | None = None,
    threshold: Tensor | None = None,
    use_nll: bool = True,
    token_weight: Tensor | None = None,
    vocab_size: int,
    tp_group: dist.ProcessGroup | None = None,
    dp_group: dist.ProcessGroup | None = None,
    sequence_parallel: bool = False,
    main_grad: Tensor | None = None,
    cache: int = 0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    impl: Impl = "auto",
) -> SelectiveLoss:
    """Per-token cross entropy of a linear output layer, differentiable at the selected tokens only.

    Args:
        hidden: [batch, sequence, D], input of the output layer, fp32, bf16 or fp16, equal on all ranks of `tp_group`;
            with `sequence_parallel` this rank's [batch, sequence / tp, D].
        weight: [V / tp, D], this rank's rows of the output layer, in the precision of `hidden`.
        labels: int64 [batch, sequence], ids over the whole vocabulary.
        valid: bool [batch, sequence], tokens that count; the others have a loss but no gradient.
        reference_nll: float32 [batch, sequence], see `select_tokens`.
        k: Share of valid tokens to train on; 1 is the plain loss, bit for bit.
        scope: See `select_tokens`. `global` needs the losses of the whole batch: select beforehand, from
            `linear_nll`, and give `selected`.
        always, threshold: See `select_tokens`.
        selected: bool [batch, sequence], a selection made before, in place of one by `k` and `scope`.
        use_nll: Whether the trainee's loss counts; without it tokens of the lowest `reference_nll` are selected.
        token_weight: float32 [batch, sequence], soft weights; None is 1.
        vocab_size: True size of the vocabulary; rows of `weight` beyond it are padding and get no probability.
        tp_group: Ranks that hold the other rows of `weight`; None: this rank holds all.
        dp_group: Ranks whose tokens compete under `dp_microbatch`; None: this rank alone.
        sequence_parallel: Whether `hidden` is this rank's part of the sequence; needs `tp_group`.
        main_grad: float32 [V / tp, D], to which the gradient of `weight` is added, as Megatron's gradient accumulation
            fusion does. `weight.grad_added_to_main_grad` is then set, if there is one, and autograd gets a dummy: zeros
            if `weight.zero_out_wgrad` (tied embeddings), uninitialised otherwise.
        cache: `triton` alone: bytes in which the forward pass may keep exponentials in bf16, so that the backward pass
            need not compute these logits again; relative error of a probability about 2^-9. Not with `softcap`.
        softcap: c, if logits are c * tanh(z / c) (Gemma 2, arXiv 2408.00118, section 2).
        z_loss: Coefficient of log^2 Z (PaLM, arXiv 2204.02311, section 5).
        impl: See `Impl`.

    Returns:
        Losses and selection. The gradient of `hidden` is summed over `tp_group`, and exactly 0 at tokens not selected.
    """
    start, columns = shard_columns(weight, vocab_size, tp_group)

    def select(nll: Tensor) -> Tensor:
        if selected is not None:
            return selected.clone()  # an input of an autograd function cannot be its output
        assert scope != "global" or k == 1
        score = (nll if use_nll else None, reference_nll, valid)
        return select_tokens(*score, k=k, scope=scope, always=always, group=dp_group, threshold=threshold)

    call = _Call(
        labels=labels.reshape(-1) - start,
        shape=labels.shape,
        select=select,
        token_weight=None if token_weight is None else token_weight.reshape(-1),
        columns=columns,
        tp_group=tp_group,
        sequence_parallel=sequence_parallel,
        main_grad=main_grad,
        cache=cache,
        softcap=softcap,
        z_loss=z_loss,
        impl=choose_impl(weight.device, labels.numel() * len(weight)) if impl == "auto" else impl,
    )
    return SelectiveLoss(*_SelectiveLinearCrossEntropy.apply(hidden, weight, call))


def choose_impl(device: torch.device, logits: int) -> Impl:
    """`triton` on CUDA (`chunked` if it is not installed); on CPUs `torch` while the logits are few, else `chunked`.

    `logits` are counted with padding: tensor-parallel ranks must choose the same, and the last one has fewer true columns.
    """
    if device.type == "cuda":
        return "triton" if find_spec("triton") else "chunked"
    return "torch" if logits <= TORCH_LOGITS else "chunked"


@dataclass(frozen=True)
class _Call:
    labels: Tensor  # [N], relative to this rank's rows of the weight
    shape: torch.Size
    select: Callable[[Tensor], Tensor]
    token_weight: Tensor | None  # [N]
    columns: int
    tp_group: dist.ProcessGroup | None
    sequence_parallel: bool
    main_grad: Tensor | None
    cache: int
    softcap: float | None
    z_loss: float
    impl: Impl

    def __post_init__(self):
        assert self.cache == 0 or (self.impl == "triton" and self.softcap is None)
        assert self.main_grad is None or self.main_grad.dtype == torch.float32


class _SelectiveLinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, call):
        whole = gather_sequence(hidden, call.tp_group) if call.sequence_parallel else hidden
        rows = whole.reshape(-1, whole.shape[-1])
        inputs = LossInputs(rows, weight, call.labels, call.columns, call.softcap)
        by_row: list[Tensor] = []  # kept for the backward pass, of the selected rows
        cached: tuple[Tensor, ...] = ()  # the same, of all rows
        if call.impl == "torch":
            nll, lse, *by_row = reference.log_probabilities(inputs, call.tp_group)
        else:
            if call.impl == "triton":
                stats, cached = fused().statistics(inputs, cache=call.cache)
            else:
                stats = chunked.statistics(inputs)
            maximum, total, target, _ = merge_ranks(stats, call.tp_group)
            log_total = total.log()
            # In this order large logits lose nothing: label and maximum are near each other.
            nll, lse = log_total - (target - maximum), maximum + log_total
            by_row = [maximum, log_total]
        loss = nll + call.z_loss * lse**2 if call.z_loss else nll
        if call.token_weight is not None:
            loss = loss * call.token_weight
        selected = call.select(nll.view(call.shape))
        index = selected.reshape(-1).nonzero()[:, 0]
        if any(ctx.needs_input_grad):
            everything = len(index) == len(rows)
            pick = (lambda x: x) if everything else (lambda x: x.index_select(0, index))
            ctx.rows_kept = len(by_row)
            kept = [pick(x) for x in (rows, call.labels, lse, *by_row)]
            ctx.save_for_backward(weight, index, *kept, *cached)
        ctx.call, ctx.shape = call, whole.shape
        nll = nll.clone() if loss is nll else nll
        ctx.mark_non_differentiable(selected, nll)
        return loss.view(call.shape), selected, nll.view(call.shape)

    @staticmethod
    def backward(ctx, grad_loss, *_):
        call = ctx.call
        weight, index, rows, labels, lse, *kept = ctx.saved_tensors
        by_row, cached = kept[: ctx.rows_kept], kept[ctx.rows_kept :]
        grad = grad_loss.reshape(-1).index_select(0, index).float()
        if call.token_weight is not None:
            grad = grad * call.token_weight.index_select(0, index)
        scale = 1 + 2 * call.z_loss * lse if call.z_loss else None
        accumulate = call.main_grad is not None
        inputs = LossInputs(rows, weight, labels, call.columns, call.softcap)
        if call.impl == "torch":
            log_probs, shift = by_row
            grad_rows, grad_weight = reference.gradients(inputs, lse, log_probs, shift, grad, scale)
            if accumulate:
                call.main_grad.add_(grad_weight)
        else:
            grad_weight = call.main_grad if accumulate else torch.empty_like(weight)
            into, (maximum, log_total) = WeightGradient(grad_weight, accumulate), by_row
            if call.impl == "triton":
                grad_rows = fused().gradients(inputs, maximum, log_total, grad, scale, into, index, cached)
            else:
                grad_rows = chunked.gradients(inputs, maximum, log_total, grad, scale, into)
        grad_hidden = _spread(grad_rows.to(rows.dtype), index, ctx.shape, call)
        return grad_hidden, _dummy_gradient(weight) if accumulate else grad_weight, None


def _spread(grad_rows: Tensor, index: Tensor, shape: torch.Size, call: _Call) -> Tensor:
    """Gradient of the hidden states, from that of the selected rows, summed over the ranks."""
    if call.tp_group is not None and not call.sequence_parallel:
        dist.all_reduce(grad_rows, group=call.tp_group)
    if len(index) < shape[0] * shape[1]:
        whole = grad_rows.new_zeros(shape[0] * shape[1], shape[2])
        grad_rows = whole.index_copy_(0, index, grad_rows)
    grad = grad_rows.view(shape)
    return scatter_sequence(grad, call.tp_group) if call.sequence_parallel else grad


def _dummy_gradient(weight: Tensor) -> Tensor | None:
    """What autograd gets when the gradient is in `main_grad` already; Megatron's hooks want a tensor."""
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    zeros = getattr(weight, "zero_out_wgrad", False)
    return torch.zeros_like(weight) if zeros else torch.empty_like(weight)


def fused():
    """The module of Triton kernels, imported when needed: not every machine has Triton."""
    from perdure.kernels import triton_loss

    return triton_loss
