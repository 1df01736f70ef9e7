"""The loss in plain torch, a block of the vocabulary at a time, on any device.

Blocks of the *vocabulary*, not of tokens: the weight and its gradient are then read and written once, not once a block.

Every operation over a block ends with its threads waiting for each other. Beside another busy program one of them has to wait
for its turn on a core, so blocks are large, and the operations over them few. Sums go on adding up parts of a block: how
many logits are held does not change a bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from perdure.kernels.inputs import KLTerm, LossInputs, WeightGradient
from perdure.kernels.parallel import add_matmul, matmul_fp32

HELD = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Logits held at a time: 64 or 256 MiB in fp32."""
ADDED = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits of a part, whose sums are added up: by its rounding, a part of the result."""
COLUMNS = 128
"""A part has a multiple of so many columns, but for the last one."""


def statistics(inputs: LossInputs, entropy: bool = False, teacher: LossInputs | None = None) -> Tensor:
    """Softmax statistics of this rank's logits, by an online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867).

    Args:
        inputs: All tokens.
        entropy: Whether the fourth statistic is wanted; it is 0 otherwise.
        teacher: The same tokens before the teacher's output layer, if its statistics are wanted too.

    Returns:
        float32 [4, N], with a teacher [7, N], as `parallel.merge` takes it. The teacher changes no bit of the first four.
    """
    rows, labels = inputs.rows, inputs.labels
    target = torch.zeros(len(rows), device=rows.device)
    ours = theirs = _no_sums(rows)
    buffer = _buffer(inputs) if teacher is not None else None
    for begin, end, width, logits in _blocks(inputs):
        own = (labels >= begin) & (labels < end)
        place = (labels - begin).clamp(0, end - begin - 1)[:, None]
        target += torch.where(own, logits.gather(1, place)[:, 0], 0.0)
        parts = logits.view(len(rows), (end - begin) // width, width)
        if teacher is not None:
            their_parts = _logits(teacher, begin, end, buffer).view_as(parts)
            theirs = _add_parts(theirs, their_parts, their_parts - parts)
        ours = _add_parts(ours, parts, parts if entropy else None)
    maximum, total, moment = ours
    return torch.stack([maximum, total, target, moment, *(theirs if teacher is not None else ())])


def _no_sums(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum, total and moment of no columns."""
    maximum = torch.full((len(rows),), -torch.inf, device=rows.device)
    total, moment = torch.zeros(2, len(rows), device=rows.device)
    return maximum, total, moment


def _add_parts(
    sums: tuple[Tensor, Tensor, Tensor], parts: Tensor, values: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum m of the logits z, sum of exp(z - m), and sum of values * exp(z - m), with some more columns.

    Args:
        sums: The three so far, float32 [N] each.
        parts: Logits, float32 [N, parts, width]; overwritten.
        values: As `parts`, overwritten. The logits themselves stand for z - m. None: the third sum stays.
    """
    maximum, total, moment = sums
    relative = values is parts
    maxima = torch.maximum(maximum[:, None], parts.amax(2).cummax(1).values)
    parts -= maxima[:, :, None]
    exponentials = parts.exp() if relative else parts.exp_()
    totals = exponentials.sum(2)
    if values is not None:
        moments = values.mul_(exponentials).sum(2)
    for part, higher in enumerate(maxima.unbind(1)):
        lowered = (maximum - higher).clamp_min(torch.finfo(torch.float32).min)
        scale = lowered.exp()
        if values is not None:
            moment = scale * (moment + lowered * total if relative else moment) + moments[:, part]
        total = scale * total + totals[:, part]
        maximum = higher
    return maximum, total, moment


def gradients(
    inputs: LossInputs,
    maximum: Tensor,
    log_total: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    into: WeightGradient,
    kl: KLTerm | None = None,
) -> Tensor:
    """Gradients of sum_i grad_i * (scale_i * log-sum-exp_i - label's logit_i), `grad` and `scale` held constant.

    With `kl` that of its tokens' KL(teacher || student) is added: student's probability - teacher's.

    Args:
        inputs: The M selected tokens.
        maximum: float32 [M], maximum of the logits over the whole vocabulary.
        log_total: float32 [M], log of the sum of exp(logit - maximum) over the whole vocabulary.
        grad: float32 [M].
        scale: float32 [M]; None is 1.
        into: Receives the gradient of the weight, each row once.
        kl: Of K of the tokens.

    Returns:
        This rank's part of the gradient of the rows, float32 [M, D].
    """
    rows, weight, labels, softcap = inputs.rows, inputs.weight, inputs.labels, inputs.softcap
    grad_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    buffers = [_buffer(inputs) for _ in range(2)] if kl is not None else []
    for begin, end, width, logits in _blocks(inputs):
        pull = None if kl is None else _pull(kl, begin, end, logits, buffers)
        slope = 1 - (logits / softcap) ** 2 if softcap else None
        delta = logits.sub_(maximum[:, None]).sub_(log_total[:, None]).exp_()
        if scale is not None:
            delta *= scale[:, None]
        own = (labels >= begin) & (labels < end)
        place = (labels - begin).clamp(0, end - begin - 1)[:, None]
        delta.scatter_(1, place, delta.gather(1, place) - own.float()[:, None])
        delta *= grad[:, None]
        if kl is not None:
            delta.index_add_(0, kl.index, pull)
        if slope is not None:
            delta *= slope
        delta = delta.to(weight.dtype)
        for first, part in zip(range(begin, end, width), delta.split(width, 1)):
            add_matmul(grad_rows, part, weight[first : first + width])
        into.take(begin, end, delta, rows)
    into.clear_padding(inputs.columns)
    return grad_rows


def _pull(kl: KLTerm, begin: int, end: int, logits: Tensor, buffers: list[Tensor]) -> Tensor:
    """Gradient of the tokens' KL with respect to logits [begin, end) (softcap's slope left out), float32 [K, end - begin].

    Both models' logits come from products of the same shapes, so that equal models have a difference of 0.

    Args:
        logits: The student's of all M tokens, float32 [M, end - begin].
        buffers: Memory for two times as many numbers.
    """
    theirs = _logits(kl.teacher, begin, end, buffers[0])
    if len(kl.index) == len(logits):
        ours = buffers[1][: logits.numel()].view_as(logits).copy_(logits)
    else:
        ours = _logits(kl.student, begin, end, buffers[1])
    for of_model, (maximum, log_total) in ((ours, kl.statistics[:2]), (theirs, kl.statistics[2:])):
        of_model.sub_(maximum[:, None]).sub_(log_total[:, None]).exp_()
    return ours.sub_(theirs).mul_(kl.grad[:, None])


def _blocks(inputs: LossInputs) -> Iterator[tuple[int, int, int, Tensor]]:
    """A block's first and last column, how many of its columns are a part, and its logits, float32 [N, end - begin].

    A block is a whole number of parts. Its logits may be overwritten, as the next block's are written to the same memory.
    """
    columns = inputs.columns
    width, held = _widths(inputs)
    buffer = _buffer(inputs)
    begin, whole = 0, columns // width * width
    while begin < columns:
        end = min(begin + held, whole if begin < whole else columns)
        yield begin, end, min(width, end - begin), _logits(inputs, begin, end, buffer)
        begin = end


def _widths(inputs: LossInputs) -> tuple[int, int]:
    """Columns of a part, and of a block."""
    tokens, device = max(len(inputs.rows), 1), inputs.rows.device.type
    width = max(COLUMNS, ADDED[device] // tokens // COLUMNS * COLUMNS)
    return width, max(width, HELD[device] // tokens // width * width)


def _buffer(inputs: LossInputs) -> Tensor:
    """Memory for a block's logits."""
    held = min(_widths(inputs)[1], inputs.columns)
    return torch.empty(len(inputs.rows) * held, dtype=torch.float32, device=inputs.rows.device)


def _logits(inputs: LossInputs, begin: int, end: int, buffer: Tensor) -> Tensor:
    """Logits of columns [begin, end), float32 [N, end - begin], in the memory of a buffer."""
    tokens, softcap = len(inputs.rows), inputs.softcap
    logits = buffer[: tokens * (end - begin)].view(tokens, end - begin)
    matmul_fp32(inputs.rows, inputs.weight[begin:end].t(), out=logits)
    if softcap:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits
