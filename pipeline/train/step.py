"""One optimizer step."""

from collections.abc import Callable

import torch
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor

from perdure.pipeline.model.gradients import squared_norm
from perdure.pipeline.model.optimizer import update
from perdure.pipeline.recipe import Training
from perdure.pipeline.train.batch import Batch
from perdure.pipeline.train.counts import Counts, read_counts, sum_counts
from perdure.pipeline.train.forward import token_losses
from perdure.pipeline.train.loader import Loader
from perdure.pipeline.train.microbatches import run_batches
from perdure.pipeline.train.objectives.objective import Objective


def train_step(
    model: torch.nn.Module,
    optimizer: MegatronOptimizer,
    objective: Objective,
    loader: Loader,
    training: Training,
    first_sample: int,
    judge: Callable[[Counts, float], int] = lambda counts, grad_norm: 0,
) -> tuple[Counts, float, int]:
    """Forward, backward and update on one global batch.

    Args:
        model: The wrapped model.
        optimizer: Its optimizer, learning rate set.
        objective: What is trained on, told the threshold of the batch before.
        loader: Reads this rank's micro-batches.
        training: Shape of a micro-batch.
        first_sample: Global index of the batch's first sample.
        judge: Told the counts and the gradient norm, which are equal on all ranks, says what is wrong with them; 0 is nothing.

    Returns:
        The counts, the global gradient norm before clipping, and what is wrong: unless 0, nothing was updated.
    """
    batches = objective.prepare(
        loader.batches(first_sample), lambda whole: token_losses(model, training, whole)
    )
    kept: list[tuple[Tensor, Batch]] = []
    model.zero_grad_buffer()
    optimizer.zero_grad()
    counted = run_batches(
        model,
        objective,
        batches,
        loader.num_microbatches,
        training,
        loader.num_sources,
        forward_only=False,
        observe=(lambda nll, batch: kept.append((nll, batch))) if objective.keeps_losses else None,
    )
    summed = sum_counts(counted, loader.num_sources, objective.sums)
    if objective.keeps_losses:
        summed["threshold"] = objective.next_threshold([nll for nll, _ in kept], [batch for _, batch in kept])
    # The host's one wait before the update, which must be judged first.
    counts, (squares,) = read_counts(summed, squared_norm(optimizer))
    grad_norm = squares**0.5
    if not (verdict := judge(counts, grad_norm)):
        update(optimizer, grad_norm)
    return counts, grad_norm, verdict
