"""Selective-token loss (RHO-1): forward over all tokens, backward over the selected ones, no logits in memory.

Works on the last hidden states and the (vocabulary-sharded) output weight. The forward pass computes every token's
loss, chooses tokens, and keeps the chosen rows alone; the backward pass is dense matrix products over these rows, a
block of the vocabulary at a time. No atomic operations anywhere: the same input gives the same bits.

`selective_linear_cross_entropy` takes all its tensors and settings as single parameters: to autograd it is one operation,
and its callers share no settings that would make a dataclass.

Source: Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need" (arXiv 2404.07965), equations 3 to 5.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.kernels.kl import make_teacher
from perdure.kernels.operation import Call, SelectiveLinearCrossEntropy
from perdure.kernels.parallel import shard_columns
from perdure.kernels.select import Scope, select_tokens

Impl = Literal["auto", "triton", "chunked", "torch"]
"""`triton`: fused kernels (CUDA, or the CPU under Triton's interpreter). `chunked`: plain torch, a block of the
vocabulary at a time. `torch`: all logits in memory, the reference. `auto`: `choose_impl`."""

TORCH_LOGITS = 1 << 24
"""Logits up to which a CPU holds them all (64 MiB): recomputing them would cost more than it saves."""


class SelectiveLoss(NamedTuple):
    """Results of `selective_linear_cross_entropy`, each [batch, sequence].

    Attributes:
        loss: float32, token_weight * (nll + z_loss * lse^2) of every token, differentiable at the selected ones. With
            `kl_weight` this is 0 at tokens not selected, and kl_weight * KL is added to it: the sum is the objective.
        selected: bool, whether the cross entropy counts; a token's KL counts in any case.
        nll: float32, cross entropy in nats of every token, without gradient.
        kl: float32, KL(teacher || student) in nats, 0 where `kl_weight` is, without gradient; None without `kl_weight`.
    """

    loss: Tensor
    selected: Tensor
    nll: Tensor
    kl: Tensor | None = None


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
    weigh: Callable[[Tensor], Tensor] | None = None,
    teacher_hidden: Tensor | None = None,
    teacher_weight: Tensor | None = None,
    kl_weight: Tensor | None = None,
    kl_index: Tensor | None = None,
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
        reference_nll, scope, always, threshold: See `select_tokens`.
        k: Share of valid tokens to train on; 1 is the plain loss, bit for bit.
        selected: bool [batch, sequence], a selection made before, in place of one by `k` and `scope`; `global` needs one.
        use_nll: Whether the trainee's loss counts; without it tokens of the lowest `reference_nll` are selected.
        token_weight: float32 [batch, sequence], soft weights; None is 1.
        weigh: Makes these weights of all losses [batch, sequence], once known; of either sign. Not with `kl_weight`, `z_loss`.
        teacher_hidden, teacher_weight: As `hidden` and `weight`, of a frozen model of width D_t with the same `softcap`.
        kl_weight: float32 [batch, sequence], factors of KL(teacher || student); None: the plain loss, bit for bit.
        kl_index: int64 [K], ascending places in the flattened `kl_weight` that are not 0; None: the host asks, and waits.
        vocab_size: True size of the vocabulary; rows of `weight` beyond it are padding and get no probability.
        tp_group: Ranks that hold the other rows of `weight`; None: this rank holds all.
        dp_group: Ranks whose tokens compete under `dp_microbatch`; None: this rank alone.
        sequence_parallel: Whether `hidden` is this rank's part of the sequence; needs `tp_group`.
        main_grad: float32 [V / tp, D], to which the gradient of `weight` is added; autograd gets a dummy, as Megatron has it.
        cache: `triton` alone: bytes in which the forward pass may keep exponentials in bf16, so that the backward pass
            need not compute these logits again; relative error of a probability about 2^-9. Not with `softcap` or `kl_weight`.
        softcap: c, if logits are c * tanh(z / c) (Gemma 2, arXiv 2408.00118, section 2).
        z_loss: Coefficient of log^2 Z (PaLM, arXiv 2204.02311, section 5).
        impl: See `Impl`.

    Returns:
        See `SelectiveLoss`. The gradient of `hidden` is summed over `tp_group`, and exactly 0 at tokens neither selected nor
        with a KL. KL and its gradient are exactly 0 where teacher and student are equal.
    """
    start, columns = shard_columns(weight, vocab_size, tp_group)
    rule = {"k": k, "scope": scope, "always": always, "group": dp_group, "threshold": threshold}
    call = Call(
        labels=labels.reshape(-1) - start,
        shape=labels.shape,
        select=partial(_select, selected, use_nll, reference_nll, valid, rule),
        token_weight=None if token_weight is None else token_weight.reshape(-1),
        weigh=weigh,
        teacher=make_teacher(teacher_hidden, teacher_weight, kl_weight, kl_index),
        columns=columns,
        tp_group=tp_group,
        sequence_parallel=sequence_parallel,
        main_grad=main_grad,
        cache=cache,
        softcap=softcap,
        z_loss=z_loss,
        impl=choose_impl(weight.device, labels.numel() * len(weight)) if impl == "auto" else impl,
    )
    return SelectiveLoss(*SelectiveLinearCrossEntropy.apply(hidden, weight, call))


def _select(
    selected: Tensor | None,
    use_nll: bool,
    reference_nll: Tensor | None,
    valid: Tensor,
    rule: dict[str, Any],
    nll: Tensor,
) -> Tensor:
    """The selection made before, or by `select_tokens` with a rule of its arguments."""
    if selected is not None:
        return selected.clone()  # an input of an autograd function cannot be its output
    assert rule["scope"] != "global" or rule["k"] == 1
    return select_tokens(nll if use_nll else None, reference_nll, valid, **rule)


def choose_impl(device: torch.device, logits: int) -> Impl:
    """`triton` on CUDA (`chunked` if it is not installed); on CPUs `torch` while the logits are few, else `chunked`.

    `logits` are counted with padding: tensor-parallel ranks must choose the same, and the last one has fewer true columns.
    """
    if device.type == "cuda":
        return "triton" if find_spec("triton") else "chunked"
    return "torch" if logits <= TORCH_LOGITS else "chunked"
