"""Reads this rank's part of every global batch, ahead of the step that wants it."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch

from perdure.pipeline.model.layout import Layout
from perdure.pipeline.recipe import Training
from perdure.pipeline.train import ahead
from perdure.pipeline.train.batch import Batch, HostBatch, on_device
from perdure.pipeline.train.dataset import Dataset, read_host_batch


@dataclass
class Loader:
    """Reads the micro-batches of one data-parallel rank; a thread of its own is `ahead.AHEAD` of them ahead.

    What is read follows from the sample index and the plan alone. So there is nothing to save, and what was read ahead is
    dropped if another step is asked for, or another plan.

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
    _reads: Generator[HostBatch, None, None] | None = field(default=None, init=False)
    _next: int | None = field(default=None, init=False)  # the first sample of the step that `_reads` is at

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
        if self._reads is None or self._next != first_sample:
            self.close()
            self._reads = ahead.read_ahead(
                partial(read_host_batch, self.dataset), self._indices(first_sample), ahead.AHEAD
            )
        self._next = None  # a step that is left half-way is read anew
        for left in reversed(range(self.num_microbatches)):
            host = next(self._reads)
            if not left:
                self._next = first_sample + self.training.global_batch_size
            yield on_device(host, self.device)

    def follow(self, dataset: Dataset) -> None:
        """Reads from this dataset from now on; what was read ahead by another one's plan is dropped."""
        if dataset is not self.dataset:
            self.close()
            self.dataset = dataset

    def close(self) -> None:
        """Ends the thread; the loader can be used on."""
        if self._reads is not None:
            self._reads.close()
        self._reads = None

    def _indices(self, first_sample: int) -> Iterator[range]:
        """Global indices of this rank's micro-batches, of one step and of all after it that the version has."""
        micro, batch = self.training.micro_batch_size, self.training.global_batch_size
        later = range(first_sample + batch, self.dataset.plan.end, batch)
        for first in chain((first_sample,), later):
            for number in range(self.num_microbatches):
                start = first + self.layout.first_sample(number, self.rank, micro)
                yield range(start, start + micro)
