"""The selective-token loss by Triton's kernels (`triton_kernels`); see `chunked` for what is computed. cuBLAS does the rest."""

from itertools import pairwise

import torch
import triton
from torch import Tensor

from perdure.kernels.inputs import KLTerm, LossInputs, WeightGradient
from perdure.kernels.parallel import add_matmul, merge
from perdure.kernels.tiles import Tile, gradient_tile, operands, split_columns, statistics_tile
from perdure.kernels.triton_kernels import gradient_kernel, statistics_kernel

GRADIENT_BYTES = 128 << 20
"""Gradients of logits held at a time."""
PROGRAMS = 1024
"""Programs of K1 wanted at least: a few for each of a GPU's multiprocessors. The vocabulary is split to get them."""


def statistics(
    inputs: LossInputs, entropy: bool = False, cache: int = 0, teacher: LossInputs | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `chunked.statistics`, and what is kept for `gradients` within `cache` bytes.

    Kept are, for the first columns that fit, exp(logit - part's maximum) in bf16 and the parts' maxima in float32. (bf16
    *logits* would be off by up to 6 % where they are large.)
    """
    rows, weight, columns, softcap = inputs.rows, inputs.weight, inputs.columns, inputs.softcap
    theirs = teacher or inputs
    assert rows.stride(1) == weight.stride(1) == theirs.rows.stride(1) == theirs.weight.stride(1) == 1
    n, device = len(rows), rows.device
    tile = statistics_tile(inputs, teacher, keep=cache > 0)
    block_v = tile["BLOCK_V"]
    each_split = split_columns(columns, n, tile, PROGRAMS)
    splits = max(1, triton.cdiv(columns, each_split or 1))  # a shard of padding alone is an empty split
    kept_parts = min(triton.cdiv(columns, block_v), cache // (n * (2 * block_v + 4)))
    kept = torch.empty(n, kept_parts * block_v, dtype=torch.bfloat16, device=device)
    kept_maximum = torch.empty(n, kept_parts, device=device)
    stats = torch.empty(splits, 7 if teacher else 4, n, device=device)
    statistics_kernel[(triton.cdiv(n, tile["BLOCK_N"]) * splits,)](
        *operands(inputs, tile), inputs.labels, stats, kept, kept_maximum, *operands(theirs, tile),
        n, rows.shape[1], columns, each_split, splits, kept.shape[1], rows.stride(0), weight.stride(0), softcap or 0.0,
        theirs.rows.shape[1], theirs.rows.stride(0), theirs.weight.stride(0),
        SOFTCAP=bool(softcap), ENTROPY=entropy, KEEP=kept_parts > 0, TEACHER=teacher is not None,
        UPCAST=_upcast(rows), **tile,
    )  # fmt: skip
    return merge(stats), (kept, kept_maximum) if kept_parts else ()


def gradients(
    inputs: LossInputs,
    maximum: Tensor,
    log_total: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    into: WeightGradient,
    cached: tuple[Tensor, ...] = (),
    kl: KLTerm | None = None,
) -> Tensor:
    """As `chunked.gradients`; `cached` has int64 [M], the places of the rows in what `statistics` kept, and that."""
    rows, weight, columns, softcap = inputs.rows, inputs.weight, inputs.columns, inputs.softcap
    m, teacher = len(rows), None if kl is None else kl.teacher
    tile, cached_tile = (gradient_tile(inputs, teacher, cached=x) for x in (False, True))
    width = _tile_width(tile)
    width *= max(1, GRADIENT_BYTES // max(1, m * rows.element_size()) // width)
    grad_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    out = torch.empty(m, min(width, columns), dtype=weight.dtype, device=rows.device)
    index, kept, kept_maximum = cached or (inputs.labels, out, maximum)
    kept_columns = kept.shape[1] if cached else 0
    theirs, place, kl_stats, kl_grad = inputs, inputs.labels, maximum, grad
    if kl is not None:
        theirs, kl_stats, kl_grad = kl.teacher, kl.statistics, kl.grad
        place = torch.full_like(inputs.labels, -1)
        place[kl.index] = torch.arange(len(kl.index), device=rows.device)
    edges = [*range(0, min(kept_columns, columns), width), *range(kept_columns, columns, width), columns]
    for begin, end in pairwise(edges):
        own = cached_tile if begin < kept_columns else tile
        delta = out[:, : end - begin]
        programs = triton.cdiv(m, own["BLOCK_N"]) * triton.cdiv(end - begin, _tile_width(own))
        gradient_kernel[(programs,)](
            *operands(inputs, own), inputs.labels, maximum, log_total, grad, grad if scale is None else scale,
            index, kept, kept_maximum, delta, theirs.rows, theirs.weight, place, kl_stats, kl_grad,
            m, rows.shape[1], begin, end, kept_columns, rows.stride(0), weight.stride(0), delta.stride(0), softcap or 0.0,
            len(kl_grad), theirs.rows.shape[1], theirs.rows.stride(0), theirs.weight.stride(0),
            SOFTCAP=bool(softcap), SCALED=scale is not None, CACHED=begin < kept_columns, TEACHER=kl is not None,
            UPCAST=_upcast(rows), **own,
        )  # fmt: skip
        add_matmul(grad_rows, delta, weight[begin:end])
        into.take(begin, end, delta, rows)
    into.clear_padding(columns)
    return grad_rows


def _tile_width(tile: Tile) -> int:
    return tile["PARTS"] * tile["BLOCK_V"]


def _upcast(rows: Tensor) -> bool:
    return not rows.is_cuda and rows.dtype != torch.float32
