"""What the loss needs where the vocabulary, and perhaps the sequence, is spread over tensor-parallel ranks."""

import torch
import torch.distributed as dist
from torch import Tensor

# Their names since torch 2.13, which deprecates the earlier ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def shard_columns(weight: Tensor, vocab_size: int, tp_group: dist.ProcessGroup | None) -> tuple[int, int]:
    """First vocabulary id of this rank's rows of the output weight, and how many of them are no padding.

    Args:
        weight: [V / tp, D].
        vocab_size: True size of the vocabulary; ids from there on are padding.
        tp_group: Ranks that hold the other rows; None: this rank holds all.
    """
    start = dist.get_rank(tp_group) * weight.shape[0] if tp_group is not None else 0
    return start, min(max(vocab_size - start, 0), weight.shape[0])


def gather_ranks(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Every rank's tensor, in rank order: [...] -> [ranks, ...]."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own.contiguous(), group=group)
    return torch.stack(parts)


def gather_sequence(hidden: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[batch, sequence / tp, D] of each rank -> [batch, sequence, D]."""
    own = hidden.transpose(0, 1).contiguous()
    whole = own.new_empty(own.shape[0] * dist.get_world_size(group), *own.shape[1:])
    _all_gather(whole, own, group=group)
    return whole.transpose(0, 1)


def scatter_sequence(grad: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum over ranks of [batch, sequence, D] -> this rank's [batch, sequence / tp, D]."""
    whole = grad.transpose(0, 1).contiguous()
    own = whole.new_empty(whole.shape[0] // dist.get_world_size(group), *whole.shape[1:])
    _reduce_scatter(own, whole, group=group)
    return own.transpose(0, 1)


def merge(parts: Tensor) -> Tensor:
    """Joins softmax statistics of disjoint parts of the vocabulary, in the order of the parts.

    Whoever merges the same parts gets the same bits: tensor-parallel ranks agree on every loss, and so on the
    selection, without a broadcast.

    Args:
        parts: float32 [parts, 4, tokens]: maximum m of the logits z (-inf for an empty part), sum of exp(z - m), the
            label's logit (0 in parts without it), and sum of (z - m) exp(z - m). With a teacher [parts, 7, tokens]: its
            maximum n of its logits t, sum of exp(t - n), and sum of (t - z) exp(t - n) follow.

    Returns:
        float32 [4, tokens] or [7, tokens], the same of the whole.
    """
    maximum, shift, weight = _weights(parts[:, 0])
    whole = [
        maximum,
        (parts[:, 1] * weight).sum(0),
        parts[:, 2].sum(0),
        ((parts[:, 3] + shift * parts[:, 1]) * weight).sum(0),
    ]
    if parts.shape[1] == 7:
        maximum, _, weight = _weights(parts[:, 4])
        whole += [maximum, (parts[:, 5] * weight).sum(0), (parts[:, 6] * weight).sum(0)]
    return torch.stack(whole)


def _weights(maxima: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum of the parts' maxima [parts, tokens], what each lacks to it, and the exponential of that."""
    maximum = maxima.amax(0)
    # Empty parts must not bring inf - inf or 0 * inf.
    shift = torch.where(maxima == maximum, 0.0, maxima - maximum)
    shift = shift.clamp_min(torch.finfo(torch.float32).min)
    return maximum, shift, shift.exp()


def merge_ranks(stats: Tensor, tp_group: dist.ProcessGroup | None) -> Tensor:
    """`merge` over the ranks that hold the parts. float32 [4, tokens] or [7, tokens] -> the same."""
    return stats if tp_group is None else merge(gather_ranks(stats, tp_group))


def matmul_fp32(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a @ b in float32, whatever the inputs' precision; into `out`, if it is given."""
    if a.dtype != torch.float32 and a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)


def add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in place and in float32, whatever the inputs' precision."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
