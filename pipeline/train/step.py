"""One optimizer step through Megatron's pipeline schedule, and what is counted along the way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.dataset import Batch, Dataset, read_batch
from perdure.pipeline.train.model import document_mask
from perdure.pipeline.train.optimizer import update


@dataclass(frozen=True)
class Counts:
    """Sums over one global batch, equal on all ranks.

    Attributes:
        tokens: Labels that count, per source [sources].
        loss: Their summed loss in nats, per source [sources].
        selected_tokens: Labels of new data trained on.
        selected_loss: Their summed loss.
        stream: Fingerprint of the labels and their places; equal if and only if (but for collisions) the same tokens
            were read, whatever the layout.
        selection: Fingerprint of the selected labels, likewise.
    """

    tokens: list[float]
    loss: list[float]
    selected_tokens: float
    selected_loss: float
    stream: str
    selection: str


def train_step(
    model: torch.nn.Module,
    optimizer: MegatronOptimizer,
    dataset: Dataset,
    recipe: Recipe,
    first_sample: int,
    device: torch.device,
    judge: Callable[[Counts, float], int] = lambda counts, grad_norm: 0,
) -> tuple[Counts, float, int]:
    """Forward, backward and update on one global batch.

    Args:
        model: The wrapped model.
        optimizer: Its optimizer, learning rate set.
        dataset: Where samples come from.
        recipe: Batch sizes.
        first_sample: Global index of the batch's first sample.
        device: This rank's device.
        judge: Told the counts and the gradient norm, says what is wrong with them, equal on all ranks; 0 is nothing.

    Returns:
        The counts, the global gradient norm before clipping, and what is wrong: unless 0, nothing was updated.
    """
    training = recipe.training
    data_parallel, rank = recipe.parallel.data_parallel, mpu.get_data_parallel_rank()
    micro = training.micro_batch_size
    num_microbatches = training.global_batch_size // (micro * data_parallel)

    def batches() -> Iterator[tuple[range, Batch]]:
        for number in range(num_microbatches):
            # Micro-batches are runs of consecutive samples whatever the layout, so tokens compete with the same ones.
            start = first_sample + (number * data_parallel + rank) * micro
            yield range(start, start + micro), read_batch(dataset, range(start, start + micro), device)

    model.zero_grad_buffer()
    optimizer.zero_grad()
    sums = run_batches(
        model,
        batches(),
        num_microbatches,
        recipe,
        dataset.streams[dataset.plan.keys[0]].eos_id,
        len(dataset.plan.keys),
        forward_only=False,
    )
    grad_norm, trouble = update(optimizer, lambda grad_norm: judge(sums, grad_norm))
    return sums, grad_norm, trouble


def token_losses(
    model: torch.nn.Module, recipe: Recipe, batch: Batch, indices: range, eos_id: int, num_sources: int
) -> tuple[Tensor, Tensor] | None:
    """Forward pass over one micro-batch, without gradient.

    Returns:
        nll, float32 [batch, sequence], and selected, bool [batch, sequence], on the last pipeline stage; else None.
    """
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        run_batches(
            model, iter([(indices, batch)]), 1, recipe, eos_id, num_sources, forward_only=True, keep=found
        )
    return found[0] if found else None


def run_batches(
    model: torch.nn.Module,
    batches: Iterator[tuple[range, Batch]],
    num_microbatches: int,
    recipe: Recipe,
    eos_id: int,
    num_sources: int,
    forward_only: bool,
    keep: list[tuple[Tensor, Tensor]] | None = None,
) -> Counts:
    """Runs micro-batches, each given with its global sample indices, and adds up their counts over all ranks.

    `keep` receives (nll, selected) of every micro-batch on the last stage.
    """
    training = recipe.training

    def forward_step(iterator, model):
        indices, batch = next(iterator)
        mask = document_mask(batch.tokens, eos_id) if training.document_mask else None
        output = model(batch.tokens, batch.labels, batch.valid, batch.reference, batch.replayed, mask)
        if not mpu.is_pipeline_last_stage():
            return output, None
        nll, selected = output
        if keep is not None:
            keep.append((nll, selected))
        return nll, lambda nll: _loss(nll, selected, batch, indices, num_sources)

    outputs = get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=batches,
        model=[model],
        num_microbatches=num_microbatches,
        seq_length=training.seq_length,
        micro_batch_size=training.micro_batch_size,
        forward_only=forward_only,
    )
    return _reduce(outputs, num_sources)


def _loss(
    nll: Tensor, selected: Tensor, batch: Batch, indices: range, num_sources: int
) -> tuple[Tensor, Tensor, dict]:
    """Summed loss over selected tokens, their number (Megatron divides by its total), and the counts."""
    total = (nll * selected).sum()
    with torch.no_grad():
        exact, tokens = nll.double() * batch.valid, batch.valid.double()
        sums = torch.zeros(2 * num_sources + 2, dtype=torch.float64, device=nll.device)
        sums[:num_sources].index_add_(0, batch.source, tokens.sum(1))
        sums[num_sources : 2 * num_sources].index_add_(0, batch.source, exact.sum(1))
        chosen = selected & ~batch.replayed[:, None]
        sums[-2], sums[-1] = chosen.sum(), (exact * chosen).sum()
        prints = _fingerprints(batch, selected, indices)
    return total, selected.sum().int(), {"sums": sums, "prints": prints}


def _fingerprints(batch: Batch, selected: Tensor, indices: range) -> Tensor:
    """int64 [2]: sums, wrapping, of a mix of every label (every selected label) with its place in the whole run.

    Addition commutes, so how samples are spread over ranks and micro-batches does not matter.
    """
    places = torch.arange(indices.start, indices.stop, device=selected.device)[:, None] * selected.shape[1]
    places = places + torch.arange(selected.shape[1], device=selected.device)
    mixed = (places * 0x5851F42D4C957F2D + batch.labels) * 0x2545F4914F6CDD1D
    mixed = (mixed ^ (mixed >> 29)) * 0x1B873593CC9E2D51
    mixed = mixed ^ (mixed >> 32)
    return torch.stack([(mixed * batch.valid).sum(), (mixed * selected).sum()])


def _reduce(outputs: list[dict], num_sources: int) -> Counts:
    """Adds up micro-batches and data-parallel ranks on the last stage, and tells the other stages."""
    if mpu.is_pipeline_last_stage():
        sums = torch.stack([output["sums"] for output in outputs]).sum(0)
        prints = torch.stack([output["prints"] for output in outputs]).sum(0)
        dist.all_reduce(sums, group=mpu.get_data_parallel_group())
        dist.all_reduce(prints, group=mpu.get_data_parallel_group())
    else:
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        sums = torch.zeros(2 * num_sources + 2, dtype=torch.float64, device=device)
        prints = torch.zeros(2, dtype=torch.int64, device=device)
    if mpu.get_pipeline_model_parallel_world_size() > 1:
        group, last = mpu.get_pipeline_model_parallel_group(), mpu.get_pipeline_model_parallel_last_rank()
        dist.broadcast(sums, last, group)
        dist.broadcast(prints, last, group)
    values, marks = sums.tolist(), [f"{mark & (1 << 64) - 1:016x}" for mark in prints.tolist()]
    return Counts(values[:num_sources], values[num_sources : 2 * num_sources], values[-2], values[-1], *marks)
