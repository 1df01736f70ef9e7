"""Pairs of answers: DPO (Rafailov et al. 2023, arXiv 2305.18290) and IPO (Azar et al. 2023, arXiv 2310.12036), with cross
entropy on other data beside them (C3PO: Stephan et al. 2024, arXiv 2402.10893)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import megatron.core.parallel_state as mpu
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.kernels import SelectiveLoss
from perdure.pipeline.core.sending import sent
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.recipe import Preference
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.counts import Counts, add_replicas, count_batch
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.objectives.objective import Forward
from perdure.pipeline.train.objectives.sequences import reference_losses, sum_documents, to_labels

NAMES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
"""Means over a batch's pairs, named as trl names them."""


class Pairs(NamedTuple):
    """Numbers of each document of a micro-batch, float64 [documents]; those of a pair stand one behind the other.

    Attributes:
        sides: 1 of a chosen answer, -1 of a rejected one, 0 of all others.
        logps: Log-likelihood of its labels.
        ratios: The same less that under the reference.
        lengths: Its labels.
    """

    sides: Tensor
    logps: Tensor
    ratios: Tensor
    lengths: Tensor


@dataclass(frozen=True, kw_only=True)
class PreferenceOptimization(LanguageModeling):
    """Mean loss of a batch's pairs, plus weights times mean cross entropies of the rest of the mixture.

    Every mean is over the whole global batch. Megatron divides a batch's sum by the number of its pairs, so that what is no
    pair is multiplied by that number, and divided by that of its own labels.

    Attributes:
        settings: The section of the recipe.
        keys: Names of the mixture's places, as `Batch.source` numbers them.
    """

    settings: Preference
    keys: tuple[str, ...]

    @property
    def sidecars(self) -> tuple[str, ...]:
        """The reference's losses."""
        return ("ref",)

    @property
    def adds_up_scores(self) -> bool:
        """Always."""
        return True

    @property
    def groups(self) -> list[tuple[float, list[int]]]:
        """Weight and numbers of the places whose mean cross entropy counts: each of `retain`, and all that is replayed."""
        replayed = [number for number, key in enumerate(self.keys) if is_replayed(key)]
        retained = [
            (weight, [self.keys.index(name)])
            for name, weight in self.settings.retain.items()
            if name in self.keys
        ]
        return [*retained, (1.0, replayed)] if replayed else retained

    def prepare(self, batches: Iterator[Batch], forward: Forward) -> Iterator[Batch]:
        """Weighs what is no pair, by how much of it the whole batch holds; a mixture of pairs alone is left as it is."""
        if not self.groups or not mpu.is_pipeline_last_stage():
            return batches
        whole = list(batches)
        device = whole[0].tokens.device
        found = torch.stack([self._counted(batch) for batch in whole]).sum(0)
        add_replicas(found)
        labels, pairs = found[:-1], found[-1].clamp(min=1)
        members = np.array(
            [[place in places for place in range(len(self.keys))] for _, places in self.groups]
        )
        weights = np.array([weight for weight, _ in self.groups])
        members, weights = (
            sent(torch.from_numpy(each.astype(np.float64)), device) for each in (members, weights)
        )
        factors = weights * pairs / (members * labels).sum(1).clamp(min=1)
        by_place = (factors[:, None] * members).sum(0).float()
        return iter([replace(batch, label_weight=by_place[batch.source][:, None]) for batch in whole])

    def _counted(self, batch: Batch) -> Tensor:
        """Labels of each place of the mixture in a micro-batch, and pairs, float64 [places + 1]."""
        labels = torch.zeros(len(self.keys), dtype=torch.float64, device=batch.tokens.device)
        labels.index_add_(0, batch.source, batch.valid.sum(1, dtype=torch.float64))
        return torch.cat([labels, _sides(batch).clamp(min=0).sum()[None]])

    def loss_options(self, batch: Batch) -> dict[str, Any]:
        """All labels, weighted once their losses are known."""
        return {"valid": batch.valid, "selected": None, "weigh": partial(self.weigh, batch)}

    def weigh(self, batch: Batch, nll: Tensor) -> Tensor:
        """The derivative of the batch's objective, times its number of pairs, by each label's loss.

        Args:
            batch: The micro-batch.
            nll: float32 [batch, sequence], nats.

        Returns:
            float32 [batch, sequence]: of DPO +-beta sigmoid(-m), of IPO +-2 (1 / (2 beta) - h) / labels.
        """
        plain = torch.zeros_like(nll) if batch.label_weight is None else batch.label_weight.expand_as(nll)
        if batch.sides is None:
            return plain
        pairs, beta = measure_pairs(batch, nll), self.settings.beta
        if self.settings.method == "dpo":
            weight = beta * torch.sigmoid(-beta * _margins(pairs, pairs.ratios))
        else:
            ratios = pairs.ratios / pairs.lengths.clamp(min=1)
            weight = 2 * (0.5 / beta - _margins(pairs, ratios)) / pairs.lengths.clamp(min=1)
        of_pairs = to_labels((pairs.sides * weight).float(), batch.documents, nll.shape)
        return torch.where(batch.sides != 0, of_pairs, plain)

    def reduce(
        self, output: SelectiveLoss, batch: Batch, num_sources: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The weighted losses, the number of pairs, and what is counted.

        Returns:
            As `LanguageModeling.reduce`; `pairs`, float64 [8]: pairs, their summed loss, and sums of `NAMES`.
        """
        loss, selected, nll, _kl = output
        found = count_batch(nll, selected, batch, num_sources)
        found["pairs"] = self.count_pairs(batch, nll)
        return (loss * selected).sum(), found["pairs"][0].int(), found

    @torch.no_grad()
    def count_pairs(self, batch: Batch, nll: Tensor) -> Tensor:
        """Pairs of a micro-batch, their summed loss, and sums of `NAMES`, float64 [8]."""
        if batch.sides is None:
            return torch.zeros(2 + len(NAMES), dtype=torch.float64, device=nll.device)
        pairs, beta = measure_pairs(batch, nll), self.settings.beta
        chosen, rejected = pairs.sides > 0, pairs.sides < 0
        margins = beta * _margins(pairs, pairs.ratios)
        if self.settings.method == "dpo":
            losses = -F.logsigmoid(margins)
        else:
            losses = (_margins(pairs, pairs.ratios / pairs.lengths.clamp(min=1)) - 0.5 / beta) ** 2
        of_chosen = [
            torch.ones_like(margins),
            losses,
            beta * pairs.ratios,
            margins.gt(0).double(),
            margins,
            pairs.logps,
        ]
        ones, loss, reward, right, margin, logps = (
            torch.where(chosen, each, 0.0).sum() for each in of_chosen
        )
        other, others = (
            torch.where(rejected, each, 0.0).sum() for each in (beta * pairs.ratios, pairs.logps)
        )
        return torch.stack([ones, loss, reward, other, right, margin, logps, others])

    @property
    def sums(self) -> Mapping[str, int]:
        """`pairs`, see `reduce`."""
        return {"pairs": 2 + len(NAMES)}

    def loss(self, counts: Counts) -> float:
        """The mean loss of pairs, and the weighted mean cross entropies beside it."""
        number, total, *_ = counts.sums["pairs"]
        found = total / number if number else 0.0
        for weight, places in self.groups:
            labels = sum(counts.tokens[place] for place in places)
            found += weight * sum(counts.loss[place] for place in places) / (labels or 1.0)
        return found

    def scalars(self, counts: Counts) -> dict[str, float | None]:
        """`loss`; `pairs`, their number; `preference`, their mean loss; and `NAMES`."""
        number, *sums = counts.sums["pairs"]
        means = [total / number if number else None for total in sums]
        return {"loss": self.loss(counts), "pairs": number, "preference": means[0]} | dict(
            zip(NAMES, means[1:])
        )


def measure_pairs(batch: Batch, nll: Tensor) -> Pairs:
    """Sums over the answers of a micro-batch that has pairs."""
    assert batch.sides is not None
    labels = batch.sides != 0
    return Pairs(
        sides=_sides(batch),
        logps=-sum_documents(nll.double() * labels, batch.documents),
        ratios=sum_documents((reference_losses(batch).double() - nll) * labels, batch.documents),
        lengths=sum_documents(labels.double(), batch.documents),
    )


def _sides(batch: Batch) -> Tensor:
    """Of which answer each document is, float64 [documents]; 0 if it is none."""
    if batch.sides is None:
        return torch.zeros(1, dtype=torch.float64, device=batch.tokens.device)
    return sum_documents(batch.sides.double(), batch.documents).sign()


def _margins(pairs: Pairs, values: Tensor) -> Tensor:
    """What the chosen answer's value exceeds the rejected one's by, for both documents of each pair; 0 for all others."""
    signed = pairs.sides * values
    other = torch.where(pairs.sides > 0, signed.roll(-1), signed.roll(1))
    return torch.where(pairs.sides != 0, signed + other, 0.0)
