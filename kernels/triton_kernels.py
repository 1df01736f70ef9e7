"""Triton kernels of the selective-token loss; `triton_loss` launches them.

K1 `statistics_kernel` makes tiles of logits in registers and reduces them by an online softmax. K2 `gradient_kernel`
makes the tiles of the selected rows again and writes the gradient of their logits. K2', the same kernel, starts from
exponentials that K1 kept. A tile is multiplied as a whole and reduced in PARTS of BLOCK_V columns, since what a reduction
needs beside the logits would not fit into registers for all of them.
"""

import triton
import triton.language as tl


@triton.jit
def program_place(program, row_blocks, column_blocks, GROUP: tl.constexpr):
    """Block of rows and block of columns of a program: GROUP blocks of rows go through the columns side by side.

    Programs start in the order of their numbers. Those of a group read a block of columns at about the same time, once from
    memory and then from L2, where the group's rows stay.
    """
    size = GROUP * column_blocks
    first = program // size * GROUP
    height = min(row_blocks - first, GROUP)
    return first + program % size % height, program % size // height


@triton.jit
def _logits_by_pointer(
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
    return _capped(logits, softcap, SOFTCAP)


@triton.jit
def _logits_by_descriptor(
    X, W, first_row, first_column, D, softcap,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
    SOFTCAP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """As `_logits_by_pointer`, of rows and columns that follow one another; beyond the operands' ends are zeros."""
    logits = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for start in range(0, D, BLOCK_D):
        x = X.load([first_row, start])
        w = W.load([first_column, start])
        if UPCAST:
            x = x.to(tl.float32)
            w = w.to(tl.float32)
        logits = tl.dot(x, w.T, logits, input_precision="ieee")
    return _capped(logits, softcap, SOFTCAP)


@triton.jit
def _capped(logits, softcap, SOFTCAP: tl.constexpr):
    if SOFTCAP:
        logits = softcap * (1.0 - 2.0 / (tl.exp(2.0 * logits / softcap) + 1.0))  # tanh
    return logits


@triton.jit
def _part(tile, part: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, PARTS: tl.constexpr):
    """Columns [part * BLOCK_V, (part + 1) * BLOCK_V) of a tile of PARTS * BLOCK_V, by halving it."""
    found = tile
    if PARTS > 1:
        half: tl.constexpr = PARTS // 2
        low, high = tl.split(tl.permute(tl.reshape(tile, (BLOCK_N, 2, half * BLOCK_V)), (0, 2, 1)))
        if part < half:
            found = _part(low, part, BLOCK_N, BLOCK_V, half)
        else:
            found = _part(high, part - half, BLOCK_N, BLOCK_V, half)
    return found


@triton.jit
def _rescaled(maximum, values):
    """The maximum with some more values, float32 [BLOCK_N]; what the former lacks to it; and the exponential of that, or 0."""
    higher = tl.maximum(maximum, tl.max(values, 1))
    lowered = tl.where(maximum == -float("inf"), 0.0, maximum - higher)
    scale = tl.where(maximum == -float("inf"), 0.0, tl.exp(lowered))
    return higher, lowered, scale


@triton.jit
def statistics_kernel(
    X, W, LABELS, STATS, KEPT, KEPT_MAXIMUM, TX, TW,
    N, D, columns, split_columns, splits, kept_columns, stride_x, stride_w, softcap, TD, stride_tx, stride_tw,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, TMA: tl.constexpr,
    GROUP: tl.constexpr, SOFTCAP: tl.constexpr,
    ENTROPY: tl.constexpr, KEEP: tl.constexpr, TEACHER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """K1: BLOCK_N rows times one split of the vocabulary -> STATS[split, 0:4, row]; with a teacher [split, 0:7, row]."""
    block, split = program_place(tl.program_id(0), tl.cdiv(N, BLOCK_N), splits, GROUP)
    row = block * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = row < N
    label = tl.load(LABELS + row, mask=row_ok, other=-1).to(tl.int32)
    maximum = tl.full((BLOCK_N,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    target = tl.zeros((BLOCK_N,), tl.float32)
    moment = tl.zeros((BLOCK_N,), tl.float32)
    their_maximum, their_total, their_moment = maximum, total, moment
    WIDTH: tl.constexpr = PARTS * BLOCK_V
    first = split * split_columns
    last = tl.minimum(first + split_columns, columns)
    for start in range(first, last, WIDTH):
        column = start + tl.arange(0, WIDTH)
        if TMA:
            tile = _logits_by_descriptor(
                X, W, block * BLOCK_N, start, D, softcap, BLOCK_N, WIDTH, BLOCK_D, SOFTCAP, UPCAST
            )
        else:
            tile = _logits_by_pointer(
                X, W, row, row_ok, column, column < last, D, stride_x, stride_w, softcap,
                BLOCK_N, WIDTH, BLOCK_D, SOFTCAP, UPCAST,
            )  # fmt: skip
        if TEACHER:
            if TMA:
                their_tile = _logits_by_descriptor(
                    TX, TW, block * BLOCK_N, start, TD, softcap, BLOCK_N, WIDTH, BLOCK_D, SOFTCAP, UPCAST
                )
            else:
                their_tile = _logits_by_pointer(
                    TX, TW, row, row_ok, column, column < last, TD, stride_tx, stride_tw, softcap,
                    BLOCK_N, WIDTH, BLOCK_D, SOFTCAP, UPCAST,
                )  # fmt: skip
        for part in tl.static_range(PARTS):
            begin = start + part * BLOCK_V
            column = begin + tl.arange(0, BLOCK_V)
            column_ok = column < last
            logits = _part(tile, part, BLOCK_N, BLOCK_V, PARTS)
            # The label's logit comes from the accumulator itself, never from an exponential.
            is_label = (column[None, :] == label[:, None]) & column_ok[None, :]
            target += tl.sum(tl.where(is_label, logits, 0.0), 1)
            if TEACHER:
                theirs = _part(their_tile, part, BLOCK_N, BLOCK_V, PARTS)
                difference = tl.where(column_ok[None, :], theirs - logits, 0.0)
                theirs = tl.where(column_ok[None, :], theirs, -float("inf"))
                their_maximum, _, scale = _rescaled(their_maximum, theirs)
                exponentials = tl.exp(theirs - their_maximum[:, None])
                their_moment = scale * their_moment + tl.sum(difference * exponentials, 1)
                their_total = scale * their_total + tl.sum(exponentials, 1)
            logits = tl.where(column_ok[None, :], logits, -float("inf"))
            maximum, lowered, scale = _rescaled(maximum, logits)
            shifted = logits - maximum[:, None]
            exponentials = tl.exp(shifted)
            if ENTROPY:
                shifted = tl.where(column_ok[None, :], shifted, 0.0)
                moment = scale * (moment + lowered * total) + tl.sum(shifted * exponentials, 1)
            total = scale * total + tl.sum(exponentials, 1)
            if KEEP:  # noqa: SIM102 (one is known when compiling, the other is not)
                if begin < kept_columns:
                    _keep(KEPT, KEPT_MAXIMUM, logits, row, row_ok, column, begin, kept_columns, BLOCK_V)
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
def _keep(
    KEPT, KEPT_MAXIMUM, logits, row, row_ok, column, begin, kept_columns, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Keeps exp(logit - maximum) of a part that is kept whole, and the part's maxima."""
    maximum = tl.max(logits, 1)
    kept = tl.exp(logits - maximum[:, None])
    place = row.to(tl.int64) * kept_columns
    tl.store(KEPT + place[:, None] + column[None, :], kept.to(KEPT.dtype.element_ty), mask=row_ok[:, None])
    place = row.to(tl.int64) * (kept_columns // BLOCK_V) + begin // BLOCK_V
    tl.store(KEPT_MAXIMUM + place, maximum, mask=row_ok)


@triton.jit
def gradient_kernel(
    X, W, LABELS, MAXIMUM, LOG_TOTAL, GRAD, SCALE, INDEX, KEPT, KEPT_MAXIMUM, OUT, TX, TW, PLACE, KL_STATS, KL_GRAD,
    N, D, begin, end, kept_columns, stride_x, stride_w, stride_out, softcap, K, TD, stride_tx, stride_tw,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, TMA: tl.constexpr,
    GROUP: tl.constexpr, SOFTCAP: tl.constexpr,
    SCALED: tl.constexpr, CACHED: tl.constexpr, TEACHER: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """K2, and K2' if CACHED: gradient of the logits of a tile -> OUT[row, column - begin]."""
    WIDTH: tl.constexpr = PARTS * BLOCK_V
    block, column_block = program_place(
        tl.program_id(0), tl.cdiv(N, BLOCK_N), tl.cdiv(end - begin, WIDTH), GROUP
    )
    row = block * BLOCK_N + tl.arange(0, BLOCK_N)
    row_ok = row < N
    start = begin + column_block * WIDTH
    column = start + tl.arange(0, WIDTH)
    column_ok = column < end
    maximum = tl.load(MAXIMUM + row, mask=row_ok, other=0.0)
    log_total = tl.load(LOG_TOTAL + row, mask=row_ok, other=0.0)
    if CACHED:  # a part alone
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
        if TMA:
            logits = _logits_by_descriptor(
                X, W, block * BLOCK_N, start, D, softcap, BLOCK_N, WIDTH, BLOCK_D, SOFTCAP, UPCAST
            )
        else:
            logits = _logits_by_pointer(
                X, W, row, row_ok, column, column_ok, D, stride_x, stride_w, softcap,
                BLOCK_N, WIDTH, BLOCK_D, SOFTCAP, UPCAST,
            )  # fmt: skip
        probability = tl.exp(logits - maximum[:, None] - log_total[:, None])
    if TEACHER:  # rows with a KL: `place` in TX and KL_STATS[0:4, place]; the others have -1
        place = tl.load(PLACE + row, mask=row_ok, other=-1)
        has_kl = place >= 0
        theirs = _logits_by_pointer(
            TX, TW, place, has_kl, column, column_ok, tl.where(tl.max(place, 0) < 0, 0, TD), stride_tx, stride_tw,
            softcap, BLOCK_N, WIDTH, BLOCK_D, SOFTCAP, UPCAST,
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
    label = tl.load(LABELS + row, mask=row_ok, other=-1).to(tl.int32)
    grad = tl.load(GRAD + row, mask=row_ok, other=0.0)
    delta = (probability - tl.where(column[None, :] == label[:, None], 1.0, 0.0)) * grad[:, None]
    if TEACHER:
        delta += pull
    if SOFTCAP:
        delta *= 1.0 - (logits / softcap) * (logits / softcap)
    place = row[:, None].to(tl.int64) * stride_out + (column - begin)[None, :]
    tl.store(OUT + place, delta.to(OUT.dtype.element_ty), mask=row_ok[:, None] & column_ok[None, :])
