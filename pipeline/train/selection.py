"""Selection over a whole batch: of the tokens of all its micro-batches, on all data-parallel ranks."""

import megatron.core.parallel_state as mpu
import torch
from torch import Tensor

from perdure.kernels import excess_loss, excess_threshold, select_tokens
from perdure.pipeline.model.language_model import reference_nats
from perdure.pipeline.recipe import Selection
from perdure.pipeline.train.batch import Batch


def select_batch(losses: list[Tensor], batches: list[Batch], selection: Selection) -> list[Tensor]:
    """Selects among the tokens of a global batch (scope `global`); all data-parallel ranks call this.

    Args:
        losses: Of this rank's micro-batches, float32 [batch, sequence] in nats.
        batches: The micro-batches.
        selection: Its share and score.

    Returns:
        By micro-batch bool [batch, sequence].
    """
    nll, reference, valid, replayed = _stack(losses, batches)
    selected = select_tokens(
        nll if selection.use_nll else None,
        reference,
        valid,
        k=selection.k,
        scope="global",
        always=replayed,
        group=mpu.get_data_parallel_group(),
    )
    return list(selected.unbind())


def select_microbatch(nll: Tensor, batch: Batch, selection: Selection) -> Tensor:
    """Selects among the tokens of one micro-batch, or of each of its sequences (scope `sequence`): bool [batch, sequence]."""
    return select_tokens(
        nll if selection.use_nll else None,
        reference_nats(batch.reference),
        batch.valid,
        k=selection.k,
        scope="sequence" if selection.scope == "sequence" else "microbatch",
        always=batch.replayed[:, None],
    )


def next_threshold(
    losses: list[Tensor], batches: list[Batch], selection: Selection, before: float | None
) -> Tensor:
    """The score that divided a batch, for the next one; all ranks call this.

    Args:
        losses: As for `select_batch`, on the last pipeline stage; the other stages have none.
        batches: As for `select_batch`.
        selection: Its share and score.
        before: What stays if no token of the batch competed.

    Returns:
        float64 [], equal on all ranks of the last pipeline stage; infinity if there is none, and on the other stages.
    """
    if not mpu.is_pipeline_last_stage():
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        return torch.full((), torch.inf, dtype=torch.float64, device=device)
    nll, reference, valid, replayed = _stack(losses, batches)
    competing = valid & ~replayed
    excess = excess_loss(nll if selection.use_nll else None, reference, competing)
    threshold, _ties = excess_threshold(excess, competing, selection.k, mpu.get_data_parallel_group())
    found = threshold.double()
    return found.where(found.isfinite(), torch.inf if before is None else before)


def _stack(losses: list[Tensor], batches: list[Batch]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """nll, reference, valid: [microbatches, batch, sequence]; replayed: [microbatches, batch, 1]."""
    return (
        torch.stack(losses),
        torch.stack([reference_nats(batch.reference) for batch in batches]),
        torch.stack([batch.valid for batch in batches]),
        torch.stack([batch.replayed for batch in batches])[..., None],
    )
