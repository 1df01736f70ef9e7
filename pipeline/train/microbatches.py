"""Micro-batches through Megatron's pipeline schedule."""

from collections.abc import Callable, Iterator
from typing import Any

import megatron.core.parallel_state as mpu
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from perdure.pipeline.recipe import Training
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.objectives.objective import Objective

Observe = Callable[[Tensor, Batch], None]
"""Takes the losses of a micro-batch, float32 [batch, sequence] in nats, and what they are of."""


def run_batches(
    model: torch.nn.Module,
    objective: Objective,
    batches: Iterator[Batch],
    num_microbatches: int,
    training: Training,
    num_sources: int,
    forward_only: bool,
    observe: Observe | None = None,
) -> list[dict[str, Tensor]]:
    """Runs this rank's micro-batches forward, and backward unless `forward_only`.

    Args:
        model: The wrapped model.
        objective: The loss of each token, and what is counted.
        batches: At least `num_microbatches`.
        num_microbatches: The same on all ranks.
        training: Shape of a micro-batch, and whether attention stays inside documents.
        num_sources: Keys of the mixture that the batches number.
        forward_only: Whether there are no gradients.
        observe: Told the losses of every micro-batch on the last pipeline stage.

    Returns:
        What `objective.reduce` counted of each, on the last pipeline stage; `sum_counts` adds it up.
    """

    def forward_step(iterator: Iterator[Batch], model: torch.nn.Module) -> tuple[Any, Any]:
        batch = next(iterator)
        last = mpu.is_pipeline_last_stage()
        documents = batch.documents if training.document_mask else None
        options = objective.loss_options(batch) if last else {}
        output = model(batch.tokens, batch.positions, batch.labels, documents, **options)
        if not last:
            return output, None
        if observe is not None:
            observe(output[2], batch)
        return output[0], lambda _loss: objective.reduce(output, batch, num_sources)

    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=batches,
        model=[model],
        num_microbatches=num_microbatches,
        seq_length=training.seq_length,
        micro_batch_size=training.micro_batch_size,
        forward_only=forward_only,
    )
