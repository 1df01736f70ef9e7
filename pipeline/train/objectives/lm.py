"""Next-token prediction over all tokens, or over those that a selection takes (RHO-1, arXiv 2404.07965)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import megatron.core.parallel_state as mpu
import numpy as np
import torch
from torch import Tensor

from perdure.kernels import SelectiveLoss
from perdure.pipeline.model.language_model import reference_nats
from perdure.pipeline.recipe import Selection
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.counts import Counts, count_batch
from perdure.pipeline.train.objectives.objective import Forward
from perdure.pipeline.train.scores import made_reference
from perdure.pipeline.train.selection import next_threshold, select_batch


@dataclass(frozen=True)
class LanguageModeling:
    """Cross entropy of the next token, averaged over the selected tokens of the global batch.

    Attributes:
        selection: Tokens to train on; None trains on all.
        threshold: For the scope `global_lagged`: the score from which on to select, found in the batch before.
    """

    selection: Selection | None = None
    threshold: float | None = None

    @property
    def sidecars(self) -> tuple[str, ...]:
        """Kinds of scores that the selection's score subtracts."""
        return () if self.selection is None else self.selection.sidecars

    @property
    def adds_up_scores(self) -> bool:
        """Never: a token without a score is left out."""
        return False

    @property
    def smoothing(self) -> int:
        """`selection.smoothing`, 0 if there is none."""
        return (self.selection.smoothing or 0) if self.selection else 0

    def made_reference(self, seed: int, indices: Iterable[int], seq_length: int) -> np.ndarray | None:
        """See `scores.made_reference`; None if scores are read from disk, or none are needed."""
        if self.selection is None or self.selection.sidecars:
            return None
        return made_reference(self.selection, seed, indices, seq_length)

    def prepare(self, batches: Iterator[Batch], forward: Forward) -> Iterator[Batch]:
        """Selects out of the whole batch, by a forward pass over all of it, where the scope needs that."""
        lagging = self._scope == "global_lagged" and self.threshold is None
        if self.selection is None or not (self._scope == "global" or lagging):
            return batches
        whole = list(batches)
        losses = forward(whole)
        if not losses:
            return iter(whole)
        masks = select_batch(losses, whole, self.selection)
        return iter([replace(batch, selected=mask) for batch, mask in zip(whole, masks, strict=True)])

    def loss_options(self, batch: Batch) -> dict[str, Any]:
        """All valid tokens, those selected beforehand, or how to select some."""
        options: dict[str, Any] = {"valid": batch.valid, "selected": batch.selected}
        if self.selection is None or self._scope is None or batch.selected is not None:
            return options
        device = batch.valid.device
        return options | {
            "reference_nll": reference_nats(batch.reference),
            "k": self.selection.k,
            "scope": self.selection.scope,
            "use_nll": self.selection.use_nll,
            # Old data is trained on whole: the reference knows the new.
            "always": batch.replayed[:, None],
            "dp_group": mpu.get_data_parallel_group(),
            "threshold": None if self.threshold is None else torch.full((), self.threshold, device=device),
        }

    def reduce(
        self, output: SelectiveLoss, batch: Batch, num_sources: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The summed loss of the selected tokens, their number, and `count_batch`."""
        loss, selected, nll, _kl = output
        return (loss * selected).sum(), selected.sum().int(), count_batch(nll, selected, batch, num_sources)

    @property
    def sums(self) -> Mapping[str, int]:
        """Nothing besides."""
        return {}

    def loss(self, counts: Counts) -> float:
        """The mean cross entropy of the labels, selected or not."""
        return counts.mean_loss

    def scalars(self, counts: Counts) -> dict[str, float | None]:
        """Nothing besides."""
        return {}

    @property
    def keeps_losses(self) -> bool:
        """Whether the scope is `global_lagged`."""
        return self._scope == "global_lagged"

    def next_threshold(self, losses: list[Tensor], batches: list[Batch]) -> Tensor:
        """See `selection.next_threshold`."""
        assert self.selection is not None
        return next_threshold(losses, batches, self.selection, self.threshold)

    def with_threshold(self, threshold: float | None) -> "LanguageModeling":
        """The same selection by a threshold of the batch before."""
        return replace(self, threshold=threshold)

    @property
    def _scope(self) -> str | None:
        """Which tokens compete with one another; None if all are taken."""
        return self.selection.scope if self.selection is not None and self.selection.k < 1 else None
