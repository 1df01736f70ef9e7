"""Triton kernels of the selective-token loss, and the functions that launch them; see `chunked` for their contract.

K1 `statistics_kernel` makes tiles of logits in registers and reduces them by an online softmax. K2 `gradient_kernel`
makes the tiles of the selected rows again and writes the gradient of their logits, a block of the vocabulary at a
time; cuBLAS does the rest. K2', the same kernel, starts from exponentials that K1 kept.

Tile sizes are fixed, not tuned at run time: another tile means another order of summation, and so other bits.
"""

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from perdure.kernels.inputs import KLTerm, LossInputs, WeightGradient
from perdure.kernels.parallel import add_matmul, merge

GRADIENT_BYTES = 128 << 20
"""Gradients of logits held at a time."""
PROGRAMS = 1024
"""Programs of K1 wanted at least: a few for each of a GPU's multiprocessors. The vocabulary is split to get them."""


def _tiles(rows: Tensor) -> dict[str, int]:
    """Rows, columns and depth of a tile, and launch options."""
    if not rows.is_cuda:  # Triton's interpreter; small, so that tests cross their edges
        return {"BLOCK_N": 16, "BLOCK_V": 32, "BLOCK_D": 32}
    # fp32 operands fill shared memory twice as fast.
    depth = 64 if rows.element_size() == 2 else 32
    return {"BLOCK_N": 128, "BLOCK_V": 128, "BLOCK_D": depth, "num_warps": 8, "num_stages": 3}


@triton.jit
def _tile_logits(
    X, W, row, row_ok, column, column_ok, D, stride_x, stride_w, softcap,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
    SOFTCAP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Logits of a tile, float32 [BLOCK_N, BLOCK_V]; undefined where a row or column is not ok."""
    x_base = X + row[:, None].to(tl.int64) * stride_x
    w_base = W + column[None, :].to(tl.int64) * stride_w
    logits = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(x_base + d[None, :], mask=row_ok[:, None] & (d[None, :] < D), other=0.0)
        w = tl.load(w_base + d[:, None], mask=column_ok[None, :] & (d[:, None] < D), other=0.0)
        if UPCAST:  # the interpreter multiplies the raw bits of bf16
            x = x.to(tl.float32)
            w = w.to(tl.float32)
        logits = tl.dot(x, w, logits, input_precision="ieee")
    if SOFTCAP:
        logits = softcap * (1.0 - 2.0 / (tl.exp(2.0 * logits / softcap) + 1.0))  # tanh
    return logits


@triton.jit
def statistics_kernel(
    X, W, LABELS, STATS, KEPT, KEPT_MAXIMUM, TX, TW,
    N, D, columns, split_columns, kept_columns, stride_x, stride_w, softcap, TD, stride_tx, stride_tw,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, SOFTCAP: tl.constexpr,
    ENTROPY: tl.constexpr, KEEP: tl.constexpr, TEACHER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """K1: BLOCK_N rows times one split of the vocabulary -> STATS[split, 0:4, row]; with a teacher [split, 0:7, row]."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = row < N
    split = tl.program_id(1)
    label = tl.load(LABELS + row, mask=row_ok, other=-1)
    maximum = tl.full((BLOCK_N,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    target = tl.zeros((BLOCK_N,), tl.float32)
    moment = tl.zeros((BLOCK_N,), tl.float32)
    their_maximum, their_total, their_moment = maximum, total, moment
    first = split * split_columns
    last = tl.minimum(first + split_columns, columns)
    for start in range(first, last, BLOCK_V):
        column = start + tl.arange(0, BLOCK_V)
        column_ok = column < last
        logits = _tile_logits(
            X, W, row, row_ok, column, column_ok, D, stride_x, stride_w, softcap,
            BLOCK_N, BLOCK_V, BLOCK_D, SOFTCAP, UPCAST,
        )  # fmt: skip
        # The label's logit comes from the accumulator itself, never from an exponential.
        is_label = (column[None, :] == label[:, None]) & column_ok[None, :]
        target += tl.sum(tl.where(is_label, logits, 0.0), 1)
        if TEACHER:
            theirs = _tile_logits(
                TX, TW, row, row_ok, column, column_ok, TD, stride_tx, stride_tw, softcap,
                BLOCK_N, BLOCK_V, BLOCK_D, SOFTCAP, UPCAST,
            )  # fmt: skip
            difference = tl.where(column_ok[None, :], theirs - logits, 0.0)
            theirs = tl.where(column_ok[None, :], theirs, -float("inf"))
            higher = tl.maximum(their_maximum, tl.max(theirs, 1))
            lowered = tl.where(their_maximum == -float("inf"), 0.0, their_maximum - higher)
            scale = tl.where(their_maximum == -float("inf"), 0.0, tl.exp(lowered))
            exponentials = tl.exp(theirs - higher[:, None])
            their_moment = scale * their_moment + tl.sum(difference * exponentials, 1)
            their_total = scale * their_total + tl.sum(exponentials, 1)
            their_maximum = higher
        logits = tl.where(column_ok[None, :], logits, -float("inf"))
        tile_maximum = tl.max(logits, 1)
        higher = tl.maximum(maximum, tile_maximum)
        lowered = tl.where(maximum == -float("inf"), 0.0, maximum - higher)
        scale = tl.where(maximum == -float("inf"), 0.0, tl.exp(lowered))
        shifted = logits - higher[:, None]
        exponentials = tl.exp(shifted)
        if ENTROPY:
            shifted = tl.where(column_ok[None, :], shifted, 0.0)
            moment = scale * (moment + lowered * total) + tl.sum(shifted * exponentials, 1)
        total = scale * total + tl.sum(exponentials, 1)
        maximum = higher
        if KEEP:  # noqa: SIM102 (one is known when compiling, the other is not)
            if start < kept_columns:
                kept = tl.exp(logits - tile_maximum[:, None])
                place = row.to(tl.int64) * kept_columns
                tl.store(
                    KEPT + place[:, None] + column[None, :],
                    kept.to(KEPT.dtype.element_ty),
                    mask=row_ok[:, None],
                )
                place = row.to(tl.int64) * (kept_columns // BLOCK_V) + start // BLOCK_V
                tl.store(KEPT_MAXIMUM + place, tile_maximum, mask=row_ok)
    out = STATS + split.to(tl.int64) * (7 if TEACHER else 4) * N + row
    tl.store(out, maximum, mask=row_ok)
    tl.store(out + N, total, mask=row_ok)
    tl.store(out + 2 * N, target, mask=row_ok)
    tl.store(out + 3 * N, moment, mask=row_ok)
    if TEACHER:
        tl.store(out + 4 * N, their_maximum, mask=row_ok)
        tl.store(out + 5 * N, their_total, mask=row_ok)
        tl.store(out + 6 * N, their_moment, mask=row_ok)


@triton.jit
def gradient_kernel(
    X, W, LABELS, MAXIMUM, LOG_TOTAL, GRAD, SCALE, INDEX, KEPT, KEPT_MAXIMUM, OUT, TX, TW, PLACE, KL_STATS, KL_GRAD,
    N, D, begin, end, kept_columns, stride_x, stride_w, stride_out, softcap, K, TD, stride_tx, stride_tw,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, SOFTCAP: tl.constexpr,
    SCALED: tl.constexpr, CACHED: tl.constexpr, TEACHER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """K2, and K2' if CACHED: gradient of the logits of a tile -> OUT[row, column - begin]."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = row < N
    start = begin + tl.program_id(1) * BLOCK_V
    column = start + tl.arange(0, BLOCK_V)
    column_ok = column < end
    maximum = tl.load(MAXIMUM + row, mask=row_ok, other=0.0)
    log_total = tl.load(LOG_TOTAL + row, mask=row_ok, other=0.0)
    if CACHED:
        place = tl.load(INDEX + row, mask=row_ok, other=0).to(tl.int64)
        kept = tl.load(
            KEPT + (place * kept_columns)[:, None] + column[None, :],
            mask=row_ok[:, None] & column_ok[None, :],
            other=0.0,
        )
        place = place * (kept_columns // BLOCK_V) + start // BLOCK_V
        tile_maximum = tl.load(KEPT_MAXIMUM + place, mask=row_ok, other=0.0)
        probability = kept.to(tl.float32) * tl.exp(tile_maximum - maximum - log_total)[:, None]
    else:
        logits = _tile_logits(
            X, W, row, row_ok, column, column_ok, D, stride_x, stride_w, softcap,
            BLOCK_N, BLOCK_V, BLOCK_D, SOFTCAP, UPCAST,
        )  # fmt: skip
        probability = tl.exp(logits - maximum[:, None] - log_total[:, None])
    if TEACHER:  # rows with a KL: `place` in TX and KL_STATS[0:4, place]; the others have -1
        place = tl.load(PLACE + row, mask=row_ok, other=-1)
        has_kl = place >= 0
        theirs = _tile_logits(
            TX, TW, place, has_kl, column, column_ok, tl.where(tl.max(place, 0) < 0, 0, TD), stride_tx, stride_tw,
            softcap, BLOCK_N, BLOCK_V, BLOCK_D, SOFTCAP, UPCAST,
        )  # fmt: skip
        at = KL_STATS + place
        top, log_sum = tl.load(at, mask=has_kl, other=0.0), tl.load(at + K, mask=has_kl, other=0.0)
        pull = tl.exp(logits - top[:, None] - log_sum[:, None])
        at += 2 * K
        top, log_sum = tl.load(at, mask=has_kl, other=0.0), tl.load(at + K, mask=has_kl, other=0.0)
        pull -= tl.exp(theirs - top[:, None] - log_sum[:, None])
        factor = tl.load(KL_GRAD + place, mask=has_kl, other=0.0)
        pull = tl.where(has_kl[:, None], pull * factor[:, None], 0.0)  # others may have infinities
    if SCALED:
        probability *= tl.load(SCALE + row, mask=row_ok, other=0.0)[:, None]
    label = tl.load(LABELS + row, mask=row_ok, other=-1)
    grad = tl.load(GRAD + row, mask=row_ok, other=0.0)
    delta = (probability - tl.where(column[None, :] == label[:, None], 1.0, 0.0)) * grad[:, None]
    if TEACHER:
        delta += pull
    if SOFTCAP:
        delta *= 1.0 - (logits / softcap) * (logits / softcap)
    place = row[:, None].to(tl.int64) * stride_out + (column - begin)[None, :]
    tl.store(OUT + place, delta.to(OUT.dtype.element_ty), mask=row_ok[:, None] & column_ok[None, :])


def statistics(
    inputs: LossInputs, entropy: bool = False, cache: int = 0, teacher: LossInputs | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `chunked.statistics`, and what is kept for `gradients` within `cache` bytes.

    Kept are, for the first columns that fit, exp(logit - tile's maximum) in bf16 and the tiles' maxima in float32. (bf16
    *logits* would be off by up to 6 % where they are large.)
    """
    rows, weight, columns, softcap = inputs.rows, inputs.weight, inputs.columns, inputs.softcap
    their_rows, their_weight = (teacher.rows, teacher.weight) if teacher else (rows, weight)
    assert rows.stride(1) == weight.stride(1) == their_rows.stride(1) == their_weight.stride(1) == 1
    tiles = _tiles(rows)
    block_v, n, device = tiles["BLOCK_V"], len(rows), rows.device
    row_blocks, tile_columns = triton.cdiv(n, tiles["BLOCK_N"]), triton.cdiv(columns, block_v)
    split_columns = (
        triton.cdiv(tile_columns, min(tile_columns, triton.cdiv(PROGRAMS, row_blocks)) or 1) * block_v
    )
    splits = max(1, triton.cdiv(columns, split_columns or 1))  # a shard of padding alone is an empty split
    kept_tiles = min(tile_columns, cache // (n * (2 * block_v + 4)))
    kept = torch.empty(n, kept_tiles * block_v, dtype=torch.bfloat16, device=device)
    kept_maximum = torch.empty(n, kept_tiles, device=device)
    stats = torch.empty(splits, 7 if teacher else 4, n, device=device)
    statistics_kernel[row_blocks, splits](
        rows, weight, inputs.labels, stats, kept, kept_maximum, their_rows, their_weight,
        n, rows.shape[1], columns, split_columns, kept.shape[1], rows.stride(0), weight.stride(0), softcap or 0.0,
        their_rows.shape[1], their_rows.stride(0), their_weight.stride(0),
        SOFTCAP=bool(softcap), ENTROPY=entropy, KEEP=kept_tiles > 0, TEACHER=teacher is not None,
        UPCAST=_upcast(rows), **tiles,
    )  # fmt: skip
    return merge(stats), (kept, kept_maximum) if kept_tiles else ()


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
    tiles = _tiles(rows)
    m, block_v = len(rows), tiles["BLOCK_V"]
    grad_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    width = max(1, GRADIENT_BYTES // max(1, m * rows.element_size()) // block_v) * block_v
    out = torch.empty(m, min(width, columns), dtype=weight.dtype, device=rows.device)
    index, kept, kept_maximum = cached or (inputs.labels, out, maximum)
    kept_columns = kept.shape[1] if cached else 0
    their_rows, their_weight, place, kl_stats, kl_grad = rows, weight, inputs.labels, maximum, grad
    if kl is not None:
        their_rows, their_weight, kl_stats, kl_grad = (
            kl.teacher.rows,
            kl.teacher.weight,
            kl.statistics,
            kl.grad,
        )
        place = torch.full_like(inputs.labels, -1)
        place[kl.index] = torch.arange(len(kl.index), device=rows.device)
    edges = [*range(0, min(kept_columns, columns), width), *range(kept_columns, columns, width), columns]
    for begin, end in pairwise(edges):
        delta = out[:, : end - begin]
        gradient_kernel[triton.cdiv(m, tiles["BLOCK_N"]), triton.cdiv(end - begin, block_v)](
            rows, weight, inputs.labels, maximum, log_total, grad, grad if scale is None else scale,
            index, kept, kept_maximum, delta, their_rows, their_weight, place, kl_stats, kl_grad,
            m, rows.shape[1], begin, end, kept_columns, rows.stride(0), weight.stride(0), delta.stride(0), softcap or 0.0,
            len(kl_grad), their_rows.shape[1], their_rows.stride(0), their_weight.stride(0),
            SOFTCAP=bool(softcap), SCALED=scale is not None, CACHED=begin < kept_columns, TEACHER=kl is not None,
            UPCAST=_upcast(rows), **tiles,
        )  # fmt: skip
        add_matmul(grad_rows, delta, weight[begin:end])
        into.take(begin, end, delta, rows)
    into.clear_padding(columns)
    return grad_rows


def _upcast(rows: Tensor) -> bool:
    return not rows.is_cuda and rows.dtype != torch.float32
