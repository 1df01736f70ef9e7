"""KL(teacher || student) of a token beside its loss: what the implementations have in common.

KL = sum over the vocabulary of p (log p - log q), with p the teacher's probability and q the student's, at temperature 1.
Its gradient with respect to the student's logits is q - p. Source: Li and Hoiem 2016, "Learning without Forgetting" (arXiv
1606.09282), for a model that holds on to its former self; with T = 1 equation 2 there is the cross entropy sum -p log q, and
KL is that less the teacher's entropy, which has no gradient.

With logits t of the teacher and z of the student, KL = sum p (t - z) - log-sum-exp(t) + log-sum-exp(z), which an online
softmax can add up. Where both models are equal, each of its three differences is 0, to the bit.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.kernels.inputs import KLTerm, LossInputs
from perdure.kernels.parallel import gather_sequence


class Teacher(NamedTuple):
    """The teacher's part of a call of the loss.

    Attributes:
        hidden: [batch, sequence, D_t], with sequence parallelism this rank's [batch, sequence / tp, D_t].
        weight: [V / tp, D_t], this rank's rows of the teacher's output layer.
        kl_weight: float32 [N], factor of each token's KL.
        compared: int64 [K], places of the tokens with such a factor, ascending; None: the device is asked for them.
    """

    hidden: Tensor
    weight: Tensor
    kl_weight: Tensor
    compared: Tensor | None

    def places(self) -> Tensor:
        """`compared`, asked for if it has to be: then the host waits for the device."""
        return self.kl_weight.nonzero()[:, 0] if self.compared is None else self.compared


def make_teacher(
    hidden: Tensor | None, weight: Tensor | None, kl_weight: Tensor | None, compared: Tensor | None
) -> Teacher | None:
    """The teacher, if there is a weight, [batch, sequence], of its KL; `compared` as in `Teacher`."""
    if kl_weight is None:
        return None
    assert hidden is not None and weight is not None
    assert kl_weight.dtype == torch.float32
    return Teacher(hidden, weight, kl_weight.reshape(-1), compared)


def teacher_inputs(
    teacher: Teacher, student: LossInputs, sequence_group: dist.ProcessGroup | None
) -> LossInputs:
    """All N tokens before the teacher's output layer.

    Args:
        teacher: Of the call.
        student: The same tokens before the student's output layer.
        sequence_group: Ranks that hold the other parts of the sequence; None: this rank holds all.
    """
    whole = teacher.hidden.detach()
    if sequence_group is not None:
        whole = gather_sequence(whole, sequence_group)
    return replace(student, rows=whole.reshape(-1, whole.shape[-1]), weight=teacher.weight.detach())


def divergence(stats: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) in nats, float32 [K], and `KLTerm.statistics`, from merged statistics, float32 [7, K].

    Rounding can make a KL of nearly 0 negative, by some 1e-6.
    """
    maximum, total, _, _, their_maximum, their_total, moment = stats
    log_total, their_log_total = total.log(), their_total.log()
    kl = moment / their_total + (maximum - their_maximum) + (log_total - their_log_total)
    return kl, torch.stack([maximum, log_total, their_maximum, their_log_total])


def backward_term(
    student: LossInputs, index: Tensor, teacher: Teacher, kept: list[Tensor], grad: Tensor
) -> KLTerm:
    """The KL of a backward pass over M tokens.

    Args:
        student: The M tokens before the student's output layer.
        index: int64 [M], their places among all tokens, ascending.
        teacher: Of the call.
        kept: int64 [K], places of those with a KL among all tokens; [K, D_t], the same before the teacher's output layer;
            and `KLTerm.statistics`.
        grad: float32 [M], gradient of each token's KL.
    """
    asked, their_rows, statistics = kept
    at = torch.searchsorted(index, asked)
    picked = student.pick(at)
    theirs = replace(picked, rows=their_rows, weight=teacher.weight.detach())
    return KLTerm(picked, theirs, at, statistics, grad.index_select(0, at))
