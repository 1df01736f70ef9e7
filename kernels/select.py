"""Selection of the tokens to train on: highest excess loss first, exact for any set of tokens that compete.

Source: Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need" (arXiv 2404.07965), equations 3 to 5.

Tokens that are spread over data-parallel ranks compete by a radix select: scores become unsigned 32-bit keys of the same
order, and four all-reduces of a 256-bin histogram find the threshold, one byte of it at a time. All steps are
integer arithmetic, so every rank finds the same threshold, and every layout the same tokens.
"""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

Scope = Literal["sequence", "microbatch", "dp_microbatch", "global", "global_lagged"]
"""Tokens that compete: of a sequence; of a micro-batch; of the micro-batches that data-parallel ranks work on at the same
time; of the whole batch; of the whole batch, against the threshold of the one before (approximate)."""


def select_tokens(
    nll: Tensor | None,
    reference_nll: Tensor | None,
    valid: Tensor,
    *,
    k: float,
    scope: Scope = "microbatch",
    always: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
    threshold: Tensor | None = None,
) -> Tensor:
    """Chooses the tokens with the highest excess loss `nll - reference_nll`, or the lowest `reference_nll`.

    Exactly round(k * valid tokens) tokens per scope, halves rounded up; ties go to the lowest index. A token whose
    score is not finite (no reference) is never selected while k < 1. For `global_lagged` the number is what
    the threshold yields.

    Args:
        nll: float32 [..., batch, sequence], the trainee's loss in nats. With scope `global` the leading dimension counts
            this rank's micro-batches, [microbatches, batch, sequence]. None: the score is `-reference_nll` (section 4.2
            of the paper).
        reference_nll: float32, as `valid`, the reference's loss in nats, NaN where it has none. None is allowed with
            k = 1 only.
        valid: bool, as `nll`, tokens that count.
        k: Share of valid tokens to select, in (0, 1].
        scope: Tokens that compete, see `Scope`.
        always: bool [..., batch, 1], sequences all of whose valid tokens are selected and do not compete.
        group: Data-parallel ranks, for `dp_microbatch` and `global`; None: this rank is the only one. Every rank holds
            as many micro-batches; the m-th micro-batch of rank r comes before that of rank r + 1, and all m-th ones
            before all of m + 1: the order in which ties are broken.
        threshold: float32 [], for `global_lagged`: see `excess_threshold`. None (there is no step before) chooses
            as `dp_microbatch`.

    Returns:
        bool, as `valid`, the selected tokens. With k = 1: `valid`.
    """
    if k == 1:
        return valid.clone()
    competing = valid if always is None else valid & ~always
    excess = excess_loss(nll, reference_nll, competing)
    if scope in ("sequence", "microbatch"):
        rows = (-1, valid.shape[-1]) if scope == "sequence" else (1, -1)
        selected = _highest(excess.reshape(rows), competing.reshape(rows), k)
    elif scope == "global_lagged" and threshold is not None:
        selected = select_by_threshold(excess, threshold)
    else:
        runs = excess.reshape(len(excess) if scope == "global" else 1, -1)
        selected = select_by_threshold(runs, *excess_threshold(runs, competing, k, group), group)
    return selected.view_as(valid) | (valid & ~competing)


def excess_loss(nll: Tensor | None, reference_nll: Tensor | None, competing: Tensor) -> Tensor:
    """`nll - reference_nll`, float32; -inf for tokens that cannot be selected: not competing, or without reference.

    With `nll` None: `-reference_nll`.
    """
    assert reference_nll is not None
    excess = -reference_nll if nll is None else nll - reference_nll
    return excess.masked_fill(~(competing & torch.isfinite(excess)), -torch.inf)


def excess_threshold(
    excess: Tensor, competing: Tensor, k: float, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """The excess loss from which on tokens belong to the share k of all that compete on the ranks of `group`.

    Args:
        excess: float32 of any shape, from `excess_loss`.
        competing: bool, as `excess`: the tokens of which k is a share.
        k: The share.
        group: Ranks whose tokens compete; None: this rank alone.

    Returns:
        threshold and ties as by `radix_threshold`, equal on all ranks.
    """
    counts = torch.stack([competing.sum(), torch.isfinite(excess).sum()])
    if group is not None:
        dist.all_reduce(counts, group=group)
    wanted = torch.minimum(_share(counts[0], k), counts[1])
    return radix_threshold(excess, wanted, group)


def radix_threshold(
    scores: Tensor, wanted: Tensor, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """The `wanted`-th highest of the scores of all ranks, exactly, by four all-reduces of a histogram.

    Args:
        scores: float32 of any shape and any number per rank; no NaN.
        wanted: int64 [], at least 0, at most the number of scores on all ranks.
        group: Ranks that hold the scores; None: this rank alone.

    Returns:
        threshold, float32 [], and ties, int64 []: the `wanted` highest are the scores above the threshold and `ties` of
        those equal to it. With `wanted` 0: infinity and 0.
    """
    # Sorted once, so that each histogram is the difference of 257 binary searches.
    ordered = _keys(scores).flatten().sort().values
    bins = torch.arange(257, device=scores.device)
    threshold, ties = torch.zeros_like(wanted), wanted
    for shift in (24, 16, 8, 0):
        histogram = torch.searchsorted(ordered, threshold + (bins << shift)).diff()
        if group is not None:
            dist.all_reduce(histogram, group=group)
        from_top = histogram.flip(0)
        whole = from_top.cumsum(0) < ties  # the first bins from the top, all of whose scores are taken
        threshold = threshold + ((255 - whole.sum()) << shift)
        # A number on the GPU as an index would make the host wait for it; a sum over a mask does not.
        ties = ties - (from_top * whole).sum()
    return torch.where(wanted > 0, _from_key(threshold), torch.inf), ties


def select_by_threshold(
    excess: Tensor, threshold: Tensor, ties: Tensor | None = None, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Tokens above a threshold, and the first of those equal to it.

    Args:
        excess: float32 [runs, tokens], or of any shape with `ties` None. Run m of rank r comes before that of rank r + 1,
            and all runs m before all runs m + 1.
        threshold: float32 [].
        ties: int64 [], how many tokens equal to the threshold to select, over all ranks; None: all of them.
        group: As for `radix_threshold`.

    Returns:
        bool, as `excess`.
    """
    if ties is None:
        return excess >= threshold
    equal = excess == threshold
    counts = equal.sum(1)
    parts, rank = [counts], 0
    if group is not None:
        rank = dist.get_rank(group)
        parts = [torch.empty_like(counts) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, counts, group=group)
    by_place = torch.stack(parts, dim=1)  # [runs, ranks]: row after row is the order of the tokens
    before = (by_place.flatten().cumsum(0).view_as(by_place) - by_place)[:, rank]
    return (excess > threshold) | (equal & (equal.cumsum(1) + before[:, None] <= ties))


def _highest(excess: Tensor, competing: Tensor, k: float) -> Tensor:
    """The share k of each row, by a stable sort. [rows, tokens] -> bool [rows, tokens]."""
    counts = torch.minimum(_share(competing.sum(1), k), torch.isfinite(excess).sum(1))
    order = torch.sort(excess, dim=1, descending=True, stable=True).indices
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(excess.shape[1], device=excess.device).expand_as(order)
    )
    return place < counts[:, None]


def _share(number: Tensor, k: float) -> Tensor:
    """round(k * number), halves up; the definition for every scope."""
    return torch.floor(number.double() * k + 0.5).long()


def _keys(scores: Tensor) -> Tensor:
    """int64 in [0, 2^32) in the order of the float32 scores; -0.0 and 0.0 are the same."""
    bits = (scores.contiguous() + 0.0).view(torch.int32).long()
    return torch.where(bits < 0, -1 - bits, bits + (1 << 31))


def _from_key(key: Tensor) -> Tensor:
    """Inverse of `_keys`."""
    bits = torch.where(key < 1 << 31, -1 - key, key - (1 << 31))
    return bits.int().view(torch.float32)
