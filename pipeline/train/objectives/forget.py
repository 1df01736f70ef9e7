"""Unlearning: the likelihood of some documents is lowered, while all else of the batch is trained on as before.

Gradient ascent beside retained data (GradDiff, as in TOFU: Maini et al. 2024, arXiv 2401.06121), negative preference
optimisation (NPO: Zhang et al. 2024, arXiv 2404.05868) and SimNPO (Fan et al. 2024, arXiv 2410.07163).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.kernels import SelectiveLoss
from perdure.pipeline.recipe import Forget
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.counts import Counts, add_replicas
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.objectives.objective import Forward
from perdure.pipeline.train.objectives.sequences import reference_losses, sum_documents, to_labels


def forget_loss(section: Forget, nll: Tensor, labels: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of forgotten documents, and its derivative by each of their labels' losses.

    With l the summed log-likelihood of a document of T labels and r = l - l_parent: GradDiff l / T, NPO -(2 / b) log s(-b r),
    SimNPO -(2 / b) log s(-b l / T).

    Args:
        section: Method and `beta`.
        nll: float64 [documents], summed losses in nats: -l.
        labels: float64 [documents], T, at least 1.
        reference: float64 [documents], the parent's summed losses; NPO alone reads them.

    Returns:
        Twice float64 [documents].
    """
    if section.method == "graddiff":
        return -nll / labels, -1 / labels
    beta = section.strength
    if section.method == "npo":
        ratio = beta * (reference - nll)
        return -2 / beta * F.logsigmoid(-ratio), -2 * ratio.sigmoid()
    mean = beta * nll / labels
    return -2 / beta * F.logsigmoid(mean), -2 / labels * (-mean).sigmoid()


@dataclass(frozen=True, kw_only=True)
class Forgetting(LanguageModeling):
    """gamma times the mean `forget_loss` of the batch's forgotten documents, plus the mean cross entropy of its other labels.

    Megatron divides by the number of all labels, so that the weights hold the rest: gamma * labels / documents, and labels /
    retained labels, which is 1 where nothing is forgotten.

    Attributes:
        section: The recipe's.
        number: Of the forgotten source among the keys of the mixture.
    """

    section: Forget
    number: int

    @property
    def sidecars(self) -> tuple[str, ...]:
        """The parent's losses, for NPO."""
        return ("ref",) if self.section.method == "npo" else ()

    @property
    def adds_up_scores(self) -> bool:
        """NPO's likelihoods under the parent are sums."""
        return self.section.method == "npo"

    def prepare(self, batches: Iterator[Batch], forward: Forward) -> Iterator[Batch]:
        """Counts what the whole batch has: labels, retained labels, and forgotten documents."""
        whole = list(batches)
        amounts = torch.stack([self._amounts(batch) for batch in whole]).sum(0)
        add_replicas(amounts)
        return iter([replace(batch, amounts=amounts) for batch in whole])

    def _amounts(self, batch: Batch) -> Tensor:
        forgotten = self._forgotten(batch)
        documents = sum_documents(forgotten.double(), batch.documents) > 0
        return torch.stack([batch.valid.sum(), (batch.valid & ~forgotten).sum(), documents.sum()]).double()

    def _forgotten(self, batch: Batch) -> Tensor:
        """Labels of forgotten documents, bool [batch, sequence]."""
        return batch.valid & (batch.source == self.number)[:, None]

    def loss_options(self, batch: Batch) -> dict[str, Any]:
        """All labels, and how their weights follow from their losses."""
        return {"valid": batch.valid, "selected": batch.valid, "weigh": lambda nll: self.weights(nll, batch)}

    def weights(self, nll: Tensor, batch: Batch) -> Tensor:
        """The weight of each label's loss, float32 [batch, sequence]; its sum over the batch is divided by all labels.

        Args:
            nll: float32 [batch, sequence] in nats.
            batch: The micro-batch.
        """
        assert batch.amounts is not None
        labels, retained, documents = batch.amounts
        _, derivative, _ = self._of_documents(nll, batch)
        own = to_labels(derivative, batch.documents, nll.shape) * (
            self.section.factor * labels / documents.clamp(min=1)
        )
        return torch.where(self._forgotten(batch), own, labels / retained.clamp(min=1)).float()

    def _of_documents(self, nll: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and derivative of each document, 0 if it is not forgotten; and whether it is. Each [documents]."""
        forgotten = self._forgotten(batch)
        counted = sum_documents(forgotten.double(), batch.documents)
        summed = sum_documents(nll * forgotten, batch.documents)
        told = summed
        if self.section.method == "npo":
            known = reference_losses(batch).masked_fill(
                ~forgotten, 0.0
            )  # what is retained has none: infinity
            told = sum_documents(known, batch.documents)
        loss, derivative = forget_loss(self.section, summed, counted.clamp(min=1), told)
        inside = counted > 0
        return loss * inside, derivative * inside, inside

    def reduce(
        self, output: SelectiveLoss, batch: Batch, num_sources: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The weighted losses, the number of labels, and what is counted.

        Returns:
            As `LanguageModeling.reduce`; `forgetting`, float64 [4], see `sums`.
        """
        total, number, told = super().reduce(output, batch, num_sources)
        nll = output[2]
        forgotten = self._forgotten(batch)
        loss, _, inside = self._of_documents(nll, batch)
        sums = [loss.sum(), inside.sum(), (nll.double() * forgotten).sum(), forgotten.sum()]
        told["forgetting"] = torch.stack([each.double() for each in sums])
        return total, number, told

    @property
    def sums(self) -> Mapping[str, int]:
        """Of forgotten documents: their loss, their number, their summed cross entropy and labels."""
        return {"forgetting": 4}

    def loss(self, counts: Counts) -> float:
        """What is minimised."""
        return float(self.scalars(counts)["loss"] or 0.0)

    def scalars(self, counts: Counts) -> dict[str, float | None]:
        """The objective; the forgotten documents' loss by the method and cross entropy; the retained labels' cross entropy."""
        loss, documents, nats, labels = counts.sums["forgetting"]
        retained = sum(counts.tokens) - labels
        forget = loss / documents if documents else None
        retain = (sum(counts.loss) - nats) / retained if retained else None
        return {
            "loss": self.section.factor * (forget or 0.0) + (retain or 0.0),
            "forget_loss": forget,
            "forget_cross_entropy": nats / labels if labels else None,
            "retain_loss": retain,
        }
