"""What every implementation of the loss takes: tokens before the output layer, and where its gradient goes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perdure.kernels.parallel import add_matmul, matmul_fp32


@dataclass(frozen=True)
class LossInputs:
    """Tokens before the output layer, and this rank's part of that layer.

    Attributes:
        rows: [N, D], a token each; fp32, bf16 or fp16.
        weight: [V / tp, D], in the precision of `rows`.
        labels: int64 [N], relative to this rank's first row of `weight`; labels of other ranks are out of range.
        columns: Rows of `weight` that count; those after are padding.
        softcap: c, if logits are c * tanh(z / c); None: they are z.
    """

    rows: Tensor
    weight: Tensor
    labels: Tensor
    columns: int
    softcap: float | None

    def pick(self, index: Tensor) -> "LossInputs":
        """Some of the tokens, int64 [K], ascending; the very same tensors if they are all."""
        if len(index) == len(self.rows):
            return self
        rows, labels = self.rows.index_select(0, index), self.labels.index_select(0, index)
        return replace(self, rows=rows, labels=labels)


@dataclass(frozen=True)
class KLTerm:
    """KL(teacher || student) in the backward pass: of K of its tokens.

    Attributes:
        student: The K tokens before the student's output layer.
        teacher: The same before the teacher's; its `labels` do not matter.
        index: int64 [K], places of these tokens among all of the backward pass.
        statistics: float32 [4, K]: maximum of the logits and log of the sum of exp(logit - maximum), over the whole
            vocabulary; first the student's two, then the teacher's.
        grad: float32 [K], gradient of each token's KL.
    """

    student: LossInputs
    teacher: LossInputs
    index: Tensor
    statistics: Tensor
    grad: Tensor


@dataclass(frozen=True)
class WeightGradient:
    """Where the gradient of the output weight is written, a block of the vocabulary at a time.

    Attributes:
        total: [V / tp, D]; None: the weight is frozen, and nothing is computed.
        accumulate: Whether to add to `total`, which is then float32, or to overwrite it.
    """

    total: Tensor | None
    accumulate: bool

    def take(self, begin: int, end: int, grad: Tensor, rows: Tensor) -> None:
        """Takes rows [begin, end) of the gradient, computed from the gradient of their logits, [N, end - begin]."""
        if self.total is None:
            return
        if self.accumulate:
            add_matmul(self.total[begin:end], grad.t(), rows)
        elif grad.is_cuda or grad.dtype == torch.float32:
            torch.mm(grad.t(), rows, out=self.total[begin:end])
        else:
            self.total[begin:end] = matmul_fp32(grad.t(), rows)

    def clear_padding(self, columns: int) -> None:
        """Sets the gradient of padding, the rows from `columns` on, to 0."""
        if self.total is not None and not self.accumulate:
            self.total[columns:] = 0
