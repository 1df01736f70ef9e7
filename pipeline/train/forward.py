"""Losses of rows without gradient, through the model and layout that train.

Held-out evaluation, probes, the selection counts of a report, and selection out of a whole batch all score rows here.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import megatron.core.parallel_state as mpu
import torch
from torch import Tensor

from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.recipe import Recipe, Training
from perdure.pipeline.train import ahead
from perdure.pipeline.train.batch import Batch, HostBatch, Sample, collate, on_device
from perdure.pipeline.train.counts import Counts, read_counts, sum_counts
from perdure.pipeline.train.microbatches import Observe, run_batches
from perdure.pipeline.train.objectives.lm import LanguageModeling


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and without FP8, which wants sizes that a batch of questions has not; afterwards the
    mode of before."""
    training, config = model.training, unwrap(model).config
    fp8, config.fp8 = config.fp8, None
    model.eval()
    with torch.no_grad():
        yield
    model.train(training)
    config.fp8 = fp8


def token_losses(model: torch.nn.Module, training: Training, batches: list[Batch]) -> list[Tensor]:
    """Losses of every label of some micro-batches; all ranks call this, with as many each.

    Args:
        model: The wrapped model.
        training: Shape of a micro-batch.
        batches: This rank's.

    Returns:
        By micro-batch float32 [batch, sequence] in nats, on the last pipeline stage; nothing on the others.
    """
    found: list[Tensor] = []
    as_one_source = (replace(batch, source=torch.zeros_like(batch.source)) for batch in batches)
    with evaluating(model):
        run_batches(
            model,
            LanguageModeling(),
            as_one_source,
            len(batches),
            training,
            1,
            forward_only=True,
            observe=lambda nll, _batch: found.append(nll),
        )
    return found


def score_rows(
    model: torch.nn.Module,
    recipe: Recipe,
    read: Callable[[int], Sample],
    num_rows: int,
    device: torch.device,
    observe: Observe,
) -> Counts:
    """Scores rows, micro-batches of consecutive ones in turn on all data-parallel ranks; all ranks call this.

    Args:
        model: The wrapped model.
        recipe: Batch sizes and layout.
        read: Gives a row by its number; one behind the last (`blank_sample`) fills a micro-batch. A thread calls it.
        num_rows: Rows to score.
        device: This rank's device.
        observe: Told the losses of every micro-batch of this rank, on the last pipeline stage.

    Returns:
        Counts of all rows, as of one source, equal on all ranks.
    """
    layout, micro = layout_of(recipe), recipe.training.micro_batch_size
    rank = mpu.get_data_parallel_rank()
    num_microbatches = -(-num_rows // layout.samples_at_a_time(micro))

    def read_microbatch(number: int) -> HostBatch:
        start = layout.first_sample(number, rank, micro)
        indices = range(start, start + micro)
        return collate(indices, [read(index) for index in indices])

    with (
        evaluating(model),
        closing(ahead.read_ahead(read_microbatch, range(num_microbatches), ahead.AHEAD)) as read_batches,
    ):
        counted = run_batches(
            model,
            LanguageModeling(),
            (on_device(host, device) for host in read_batches),
            num_microbatches,
            recipe.training,
            1,
            forward_only=True,
            observe=observe,
        )
    return read_counts(sum_counts(counted, 1))[0]
