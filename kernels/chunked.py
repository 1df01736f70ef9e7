"""The loss in plain torch, a block of the vocabulary at a time, on any device.

Blocks of the *vocabulary*, not of tokens: the weight and its gradient are then read and written once, not once a block.

Every operation over a block ends with its threads waiting for each other. Beside another busy program one of them has to wait
for its turn on a core, so blocks are large, and the operations over them few. Sums go on adding up parts of a block: how
many logits are held does not change a bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from perdure.kernels.inputs import LossInputs, WeightGradient
from perdure.kernels.parallel import add_matmul, matmul_fp32

HELD = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Logits held at a time: 64 or 256 MiB in fp32."""
ADDED = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits of a part, whose sums are added up: by its rounding, a part of the result."""
COLUMNS = 128
"""A part has a multiple of so many columns, but for the last one."""


def statistics(inputs: LossInputs, entropy: bool = False) -> Tensor:
    """Softmax statistics of this rank's logits, by an online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867).

    Args:
        inputs: All tokens.
        entropy: Whether the fourth statistic is wanted; it is 0 otherwise.

    Returns:
        float32 [4, N] as `parallel.merge` takes it.
    """
    rows, labels = inputs.rows, inputs.labels
    maximum = torch.full((len(rows),), -torch.inf, device=rows.device)
    total, target, moment = torch.zeros(3, len(rows), device=rows.device)
    for begin, end, width, logits in _blocks(inputs):
        own = (labels >= begin) & (labels < end)
        place = (labels - begin).clamp(0, end - begin - 1)[:, None]
        target += torch.where(own, logits.gather(1, place)[:, 0], 0.0)
        parts = logits.view(len(rows), (end - begin) // width, width)
        maxima = torch.maximum(maximum[:, None], parts.amax(2).cummax(1).values)
        parts -= maxima[:, :, None]
        exponentials = parts.exp() if entropy else parts.exp_()
        totals = exponentials.sum(2)
        if entropy:
            moments = parts.mul_(exponentials).sum(2)
        for part, higher in enumerate(maxima.unbind(1)):
            lowered = (maximum - higher).clamp_min(torch.finfo(torch.float32).min)
            scale = lowered.exp()
            if entropy:
                moment = scale * (moment + lowered * total) + moments[:, part]
            total = scale * total + totals[:, part]
            maximum = higher
    return torch.stack([maximum, total, target, moment])


def gradients(
    inputs: LossInputs,
    maximum: Tensor,
    log_total: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    into: WeightGradient,
) -> Tensor:
    """Gradients of sum_i grad_i * (scale_i * log-sum-exp_i - label's logit_i), `grad` and `scale` held constant.

    Args:
        inputs: The M selected tokens.
        maximum: float32 [M], maximum of the logits over the whole vocabulary.
        log_total: float32 [M], log of the sum of exp(logit - maximum) over the whole vocabulary.
        grad: float32 [M].
        scale: float32 [M]; None is 1.
        into: Receives the gradient of the weight, each row once.

    Returns:
        This rank's part of the gradient of the rows, float32 [M, D].
    """
    rows, weight, labels, softcap = inputs.rows, inputs.weight, inputs.labels, inputs.softcap
    grad_rows = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    for begin, end, width, logits in _blocks(inputs):
        slope = 1 - (logits / softcap) ** 2 if softcap else None
        delta = logits.sub_(maximum[:, None]).sub_(log_total[:, None]).exp_()
        if scale is not None:
            delta *= scale[:, None]
        own = (labels >= begin) & (labels < end)
        place = (labels - begin).clamp(0, end - begin - 1)[:, None]
        delta.scatter_(1, place, delta.gather(1, place) - own.float()[:, None])
        delta *= grad[:, None]
        if slope is not None:
            delta *= slope
        delta = delta.to(weight.dtype)
        for first, part in zip(range(begin, end, width), delta.split(width, 1)):
            add_matmul(grad_rows, part, weight[first : first + width])
        into.take(begin, end, delta, rows)
    into.clear_padding(inputs.columns)
    return grad_rows


def _blocks(inputs: LossInputs) -> Iterator[tuple[int, int, int, Tensor]]:
    """A block's first and last column, how many of its columns are a part, and its logits, float32 [N, end - begin].

    A block is a whole number of parts. Its logits may be overwritten, as the next block's are written to the same memory.
    """
    rows, columns, softcap = inputs.rows, inputs.columns, inputs.softcap
    tokens, device = max(len(rows), 1), rows.device.type
    width = max(COLUMNS, ADDED[device] // tokens // COLUMNS * COLUMNS)
    held = max(width, HELD[device] // tokens // width * width)
    buffer = torch.empty(len(rows) * min(held, columns), dtype=torch.float32, device=rows.device)
    begin, whole = 0, columns // width * width
    while begin < columns:
        end = min(begin + held, whole if begin < whole else columns)
        logits = buffer[: len(rows) * (end - begin)].view(len(rows), end - begin)
        matmul_fp32(rows, inputs.weight[begin:end].t(), out=logits)
        if softcap:
            logits.div_(softcap).tanh_().mul_(softcap)
        yield begin, end, min(width, end - begin), logits
        begin = end
