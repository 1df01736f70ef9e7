"""What an objective is to the trainer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from perdure.kernels import SelectiveLoss
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.counts import Counts

Forward = Callable[[list[Batch]], list[Tensor]]
"""Losses of micro-batches without gradient, float32 [batch, sequence] in nats, on the last pipeline stage; else none."""


class Objective(Protocol):
    """What a version is trained on: scores it needs, how batches are prepared, the loss of each token, what is counted."""

    @property
    def sidecars(self) -> tuple[str, ...]:
        """Kinds of scores that are read beside the tokens of new data, as in the names of their files; empty: none."""

    @property
    def adds_up_scores(self) -> bool:
        """Whether it takes sums of scores over documents, so that a document with a score missing or clipped is refused."""

    @property
    def smoothing(self) -> int:
        """Neighbours to either side that scores are averaged over."""

    def made_reference(self, seed: int, indices: Iterable[int], seq_length: int) -> np.ndarray | None:
        """What takes the place of scores on disk, int32 [samples, sequence]; None: nothing does."""

    def prepare(self, batches: Iterator[Batch], forward: Forward) -> Iterator[Batch]:
        """This rank's micro-batches of a global batch as they are trained on.

        Args:
            batches: As the loader reads them.
            forward: Computes losses of all of them beforehand, with the weights before the step.
        """

    def loss_options(self, batch: Batch) -> dict[str, Any]:
        """Arguments of `selective_linear_cross_entropy` that decide the loss of each token of a micro-batch."""

    def reduce(
        self, output: SelectiveLoss, batch: Batch, num_sources: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The summed loss, by what number Megatron divides the sum over the global batch, and what is counted."""

    @property
    def sums(self) -> Mapping[str, int]:
        """What `reduce` counts besides `count_batch`, float64, by name how many numbers; `Counts.sums` has the step's."""

    def loss(self, counts: Counts) -> float:
        """The loss of a step: what the metrics call `loss`, and the guard judges."""

    def scalars(self, counts: Counts) -> dict[str, float | None]:
        """What a step's metrics say besides, by name; TensorBoard has those without a `/` under `loss/`.

        `loss` among them takes the place of the mean cross entropy of all labels.
        """

    @property
    def keeps_losses(self) -> bool:
        """Whether `next_threshold` needs the losses of the whole global batch."""

    def next_threshold(self, losses: list[Tensor], batches: list[Batch]) -> Tensor:
        """What the next step is told of this one, float64 [], infinity for nothing; kept in the checkpoint's state.

        What the last pipeline stage says counts.
        """

    def with_threshold(self, threshold: float | None) -> "Objective":
        """The objective of a step that is told this by the step before."""
