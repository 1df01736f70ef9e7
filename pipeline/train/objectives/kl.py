"""Next-token prediction, held near a frozen teacher by the Kullback-Leibler divergence of their predictions.

On all tokens it is learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282); on replayed tokens in place of their
cross entropy it is the mixture of losses MoL (arXiv 2505.12043).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.kernels import SelectiveLoss
from perdure.pipeline.core.sending import sent
from perdure.pipeline.recipe import KLAnchor
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.counts import Counts
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.objectives.objective import Forward
from perdure.pipeline.train.objectives.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class AnchoredLanguageModeling(LanguageModeling):
    """`LanguageModeling` whose loss of a token gains weight * KL(teacher || model), the whole vocabulary at temperature 1.

    The sum over the global batch is divided by the number of its trained tokens, as without the anchor: those selected among
    new data, and all that are replayed, whether by their cross entropy or by their divergence. So what a sample of new data
    adds to the gradient is what it adds without `on: replayed`. With `on: all` tokens of new data that selection leaves out
    have their divergence, too.

    Attributes:
        anchor: Its weight, and the tokens it holds for.
        teacher: The frozen model.
    """

    anchor: KLAnchor
    teacher: Teacher

    def prepare(self, batches: Iterator[Batch], forward: Forward) -> Iterator[Batch]:
        """Selects as `LanguageModeling` does, and adds the teacher's hidden states to the micro-batches that need them."""
        whole = list(super().prepare(batches, forward))
        needed = [len(self.places(batch)) > 0 for batch in whole]
        found = iter(self.teacher.hidden_states([batch for batch, need in zip(whole, needed) if need]))
        return iter(
            [
                replace(batch, teacher_hidden=next(found, None)) if need else batch
                for batch, need in zip(whole, needed)
            ]
        )

    def anchored(self, batch: Batch) -> Tensor:
        """Tokens whose divergence counts, bool [batch, sequence]."""
        return batch.valid if self.anchor.on == "all" else batch.valid & batch.replayed[:, None]

    def places(self, batch: Batch) -> np.ndarray:
        """Where these tokens are among the flattened ones, int64, ascending. The device is not asked."""
        assert batch.host is not None
        valid, replayed = batch.host.valid, batch.host.replayed[:, None]
        return np.flatnonzero(valid if self.anchor.on == "all" else valid & replayed)

    def loss_options(self, batch: Batch) -> dict[str, Any]:
        """What `LanguageModeling` says, and the teacher's part; without hidden states of it, that alone."""
        options = super().loss_options(batch)
        if batch.teacher_hidden is None:
            return options
        anchored = self.anchored(batch)
        options |= {
            "teacher_hidden": batch.teacher_hidden,
            "teacher_weight": self.teacher.output_weight,
            "kl_weight": anchored * self.anchor.weight,
            "kl_index": sent(torch.from_numpy(self.places(batch)), anchored.device),
        }
        return options | ({"token_weight": (~anchored).float()} if self.anchor.instead_of_loss else {})

    def reduce(
        self, output: SelectiveLoss, batch: Batch, num_sources: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The summed loss, by what number it is divided, and what is counted, the divergence included.

        Returns:
            As `LanguageModeling.reduce`; `kl`, float64 [2]: the summed divergence in nats without its weight, and the number
            of its tokens.
        """
        total, number, told = super().reduce(output, batch, num_sources)
        loss, *_, kl = output
        if kl is None:  # a micro-batch without such tokens
            told["kl"] = torch.zeros(2, dtype=torch.float64, device=loss.device)
            return total, number, told
        told["kl"] = torch.stack([kl.double().sum(), self.anchored(batch).sum().double()])
        return loss.sum(), number, told

    @property
    def sums(self) -> Mapping[str, int]:
        """`kl`, see `reduce`."""
        return {"kl": 2}

    def scalars(self, counts: Counts) -> dict[str, float | None]:
        """`kl`, the mean divergence where it counts, without its weight."""
        nats, tokens = counts.sums["kl"]
        return {"kl": nats / tokens if tokens else None}
