"""Reads this rank's part of every global batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from perdure.pipeline.model.layout import Layout
from perdure.pipeline.recipe import Training
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.dataset import Dataset, read_batch


@dataclass(frozen=True)
class Loader:
    """Reads the micro-batches of one data-parallel rank.

    Attributes:
        dataset: Where samples come from.
        layout: Spreads micro-batches over ranks.
        training: Batch sizes.
        rank: This rank's number among the data-parallel ones.
        device: Where batches go.
    """

    dataset: Dataset
    layout: Layout
    training: Training
    rank: int
    device: torch.device

    @property
    def num_microbatches(self) -> int:
        """Micro-batches of a step that each rank reads."""
        return self.layout.micro_batches(self.training)

    @property
    def num_sources(self) -> int:
        """Keys of the mixture."""
        return len(self.dataset.plan.keys)

    def batches(self, first_sample: int) -> Iterator[Batch]:
        """This rank's micro-batches of the global batch that begins at a global index."""
        micro = self.training.micro_batch_size
        for number in range(self.num_microbatches):
            start = first_sample + self.layout.first_sample(number, self.rank, micro)
            yield read_batch(self.dataset, range(start, start + micro), self.device)
