"""One optimizer step through Megatron's pipeline schedule, and what is counted along the way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from perdure.pipeline.core.shards import REF_MISSING
from perdure.pipeline.model.attention import document_lengths
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.optimizer import update
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.dataset import Batch, Dataset, read_batch
from perdure.pipeline.train.selection import Losses, next_threshold, select_batch

Observe = Callable[[range, Tensor, Batch], None]
"""Takes the indices of a micro-batch's samples, its losses, float32 [batch, sequence] in nats, and what they are of."""


@dataclass(frozen=True)
class Counts:
    """Sums over one global batch, equal on all ranks.

    Attributes:
        tokens: Labels that count, per source [sources].
        loss: Their summed loss in nats, per source [sources].
        selected_tokens: Labels of new data trained on.
        selected_loss: Their summed loss.
        unscored_tokens: Labels of new data without a reference, which cannot be selected while k < 1.
        stream: Fingerprint of the labels and their places; equal if and only if (but for collisions) the same tokens
            were read, whatever the layout.
        selection: Fingerprint of the selected labels, likewise.
        threshold: Score that divides this batch; scope `global_lagged` alone has one.
    """

    tokens: list[float]
    loss: list[float]
    selected_tokens: float
    selected_loss: float
    unscored_tokens: float
    stream: str
    selection: str
    threshold: float | None = None


def train_step(
    model: torch.nn.Module,
    optimizer: MegatronOptimizer,
    dataset: Dataset,
    recipe: Recipe,
    first_sample: int,
    device: torch.device,
    judge: Callable[[Counts, float], int] = lambda counts, grad_norm: 0,
    threshold: float | None = None,
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
        threshold: `Counts.threshold` of the batch before, if there was one.

    Returns:
        The counts, the global gradient norm before clipping, and what is wrong: unless 0, nothing was updated.
    """
    training = recipe.training
    layout, micro = layout_of(recipe), training.micro_batch_size
    num_microbatches = layout.micro_batches(training)

    def batches() -> Iterator[tuple[range, Batch]]:
        for number in range(num_microbatches):
            start = first_sample + layout.first_sample(number, mpu.get_data_parallel_rank(), micro)
            yield range(start, start + micro), read_batch(dataset, range(start, start + micro), device)

    eos_id, num_sources = dataset.streams[dataset.plan.keys[0]].eos_id, len(dataset.plan.keys)
    selection, members = unwrap(model).selection, batches()
    scope = selection.scope if selection is not None and selection.k < 1 else None
    if scope == "global" or (scope == "global_lagged" and threshold is None):
        members = preselected(model, recipe, list(members), eos_id, num_sources)
    losses: Losses | None = [] if scope == "global_lagged" else None
    model.zero_grad_buffer()
    optimizer.zero_grad()
    sums = run_batches(
        model,
        members,
        num_microbatches,
        recipe,
        eos_id,
        num_sources,
        forward_only=False,
        observe=None if losses is None else _keeping(losses),
        threshold=threshold,
    )
    if losses is not None:
        sums = replace(sums, threshold=next_threshold(losses, selection, threshold))
    grad_norm, trouble = update(optimizer, lambda grad_norm: judge(sums, grad_norm))
    return sums, grad_norm, trouble


def preselected(
    model: torch.nn.Module, recipe: Recipe, members: list[tuple[range, Batch]], eos_id: int, num_sources: int
) -> Iterator[tuple[range, Batch]]:
    """The same micro-batches with their selection out of the whole batch, by a forward pass over all of them."""
    losses = token_losses(model, recipe, members, eos_id, num_sources)
    if not losses:
        return iter(members)
    masks = select_batch(losses, unwrap(model).selection)
    return iter([(i, replace(batch, selected=mask)) for (i, batch), mask in zip(members, masks, strict=True)])


def token_losses(
    model: torch.nn.Module, recipe: Recipe, members: list[tuple[range, Batch]], eos_id: int, num_sources: int
) -> Losses:
    """Losses of micro-batches without gradient, on the last pipeline stage; nothing on the others."""
    found: Losses = []
    everything = ((indices, replace(batch, selected=batch.valid)) for indices, batch in members)
    with torch.no_grad():
        run_batches(
            model,
            everything,
            len(members),
            recipe,
            eos_id,
            num_sources,
            forward_only=True,
            observe=_keeping(found),
        )
    return found


def _keeping(losses: Losses) -> Observe:
    return lambda _indices, nll, batch: losses.append((nll, batch))


def run_batches(
    model: torch.nn.Module,
    batches: Iterator[tuple[range, Batch]],
    num_microbatches: int,
    recipe: Recipe,
    eos_id: int,
    num_sources: int,
    forward_only: bool,
    observe: Observe | None = None,
    threshold: float | None = None,
) -> Counts:
    """Runs micro-batches, each given with its global sample indices, and adds up their counts over all ranks.

    `observe` is told the losses of every micro-batch on the last stage; `threshold` is that of `LanguageModel.forward`.
    """
    training = recipe.training

    def forward_step(iterator, model):
        indices, batch = next(iterator)
        output = model(
            batch.tokens,
            batch.labels,
            batch.valid,
            reference=batch.reference,
            replayed=batch.replayed,
            documents=document_lengths(batch.tokens, eos_id) if training.document_mask else None,
            selected=batch.selected,
            threshold=threshold,
        )
        if not mpu.is_pipeline_last_stage():
            return output, None
        loss, selected, nll = output
        if observe is not None:
            observe(indices, nll, batch)
        return loss, lambda loss: _loss(loss, selected, nll, batch, indices, num_sources)

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
    loss: Tensor, selected: Tensor, nll: Tensor, batch: Batch, indices: range, num_sources: int
) -> tuple[Tensor, Tensor, dict]:
    """Summed loss over selected tokens, their number (Megatron divides by its total), and the counts."""
    total = (loss * selected).sum()
    with torch.no_grad():
        exact, tokens = nll.double() * batch.valid, batch.valid.double()
        sums = torch.zeros(2 * num_sources + 3, dtype=torch.float64, device=nll.device)
        sums[:num_sources].index_add_(0, batch.source, tokens.sum(1))
        sums[num_sources : 2 * num_sources].index_add_(0, batch.source, exact.sum(1))
        fresh = ~batch.replayed[:, None]
        chosen = selected & fresh
        sums[-3], sums[-2] = chosen.sum(), (exact * chosen).sum()
        sums[-1] = (batch.valid & fresh & (batch.reference == REF_MISSING)).sum()
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
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    sums = torch.zeros(2 * num_sources + 3, dtype=torch.float64, device=device)
    prints = torch.zeros(2, dtype=torch.int64, device=device)
    if mpu.is_pipeline_last_stage():
        sums = torch.stack([output["sums"] for output in outputs]).sum(0)
        prints = torch.stack([output["prints"] for output in outputs]).sum(0)
    add_up(sums)
    add_up(prints)
    values, marks = sums.tolist(), [f"{mark & (1 << 64) - 1:016x}" for mark in prints.tolist()]
    return Counts(values[:num_sources], values[num_sources : 2 * num_sources], *values[-3:], *marks)


def add_up(sums: Tensor) -> None:
    """Adds up, in place, what each data-parallel rank counted on the last stage, and tells the other stages."""
    if mpu.is_pipeline_last_stage():
        dist.all_reduce(sums, group=mpu.get_data_parallel_group())
    if mpu.get_pipeline_model_parallel_world_size() > 1:
        group, last = mpu.get_pipeline_model_parallel_group(), mpu.get_pipeline_model_parallel_last_rank()
        dist.broadcast(sums, last, group)
