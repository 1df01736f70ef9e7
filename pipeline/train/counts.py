"""What a batch is counted as: tokens and losses by source, selected tokens, fingerprints."""

from dataclasses import dataclass, replace

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from torch import Tensor

from perdure.pipeline.core.shards import REF_MISSING
from perdure.pipeline.train.batch import Batch


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
        kl: Summed divergence from a teacher in nats, and of how many tokens; None if there is no teacher.
    """

    tokens: list[float]
    loss: list[float]
    selected_tokens: float
    selected_loss: float
    unscored_tokens: float
    stream: str
    selection: str
    threshold: float | None = None
    kl: tuple[float, float] | None = None

    @property
    def mean_loss(self) -> float:
        """Nats per token."""
        return sum(self.loss) / sum(self.tokens)


@torch.no_grad()
def count_batch(nll: Tensor, selected: Tensor, batch: Batch, num_sources: int) -> dict[str, Tensor]:
    """Counts one micro-batch.

    Args:
        nll: float32 [batch, sequence], loss of every label in nats.
        selected: bool [batch, sequence], labels that are trained on.
        batch: What they are of.
        num_sources: Keys of the mixture.

    Returns:
        `sums`, float64 [2 * num_sources + 3]: the first fields of `Counts`; `prints`, see `fingerprints`.
    """
    exact, tokens = nll.double() * batch.valid, batch.valid.double()
    sums = torch.zeros(2 * num_sources + 3, dtype=torch.float64, device=nll.device)
    sums[:num_sources].index_add_(0, batch.source, tokens.sum(1))
    sums[num_sources : 2 * num_sources].index_add_(0, batch.source, exact.sum(1))
    fresh = ~batch.replayed[:, None]
    chosen = selected & fresh
    sums[-3], sums[-2] = chosen.sum(), (exact * chosen).sum()
    sums[-1] = (batch.valid & fresh & (batch.reference == REF_MISSING)).sum()
    return {"sums": sums, "prints": fingerprints(batch, selected)}


def fingerprints(batch: Batch, selected: Tensor) -> Tensor:
    """int64 [2]: sums, wrapping, of a mix of every label (every selected label) with its place in the whole run.

    Addition commutes, so how samples are spread over ranks and micro-batches does not matter.
    """
    places = torch.arange(batch.indices.start, batch.indices.stop, device=selected.device)[:, None]
    places = places * selected.shape[1] + torch.arange(selected.shape[1], device=selected.device)
    mixed = (places * 0x5851F42D4C957F2D + batch.labels) * 0x2545F4914F6CDD1D
    mixed = (mixed ^ (mixed >> 29)) * 0x1B873593CC9E2D51
    mixed = mixed ^ (mixed >> 32)
    return torch.stack([(mixed * batch.valid).sum(), (mixed * selected).sum()])


def sum_counts(counted: list[dict[str, Tensor]], num_sources: int, with_kl: bool = False) -> Counts:
    """Adds up micro-batches and data-parallel ranks on the last stage, and tells the other stages.

    Args:
        counted: From `count_batch`, on the last pipeline stage.
        num_sources: Keys of the mixture.
        with_kl: Whether there is a `kl`, float64 [2], too, as `Counts` has it.
    """
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    sums = torch.zeros(2 * num_sources + 3, dtype=torch.float64, device=device)
    prints = torch.zeros(2, dtype=torch.int64, device=device)
    if mpu.is_pipeline_last_stage():
        sums = torch.stack([counts["sums"] for counts in counted]).sum(0)
        prints = torch.stack([counts["prints"] for counts in counted]).sum(0)
    add_up(sums)
    add_up(prints)
    values, marks = sums.tolist(), [f"{mark & (1 << 64) - 1:016x}" for mark in prints.tolist()]
    counts = Counts(values[:num_sources], values[num_sources : 2 * num_sources], *values[-3:], *marks)
    if not with_kl:
        return counts
    # By itself: without a teacher the collectives are the same as ever.
    divergence = torch.zeros(2, dtype=torch.float64, device=device)
    if mpu.is_pipeline_last_stage():
        divergence = torch.stack([own["kl"] for own in counted]).sum(0)
    add_up(divergence)
    nats, tokens = divergence.tolist()
    return replace(counts, kl=(nats, tokens))


def add_up(sums: Tensor) -> None:
    """Adds up, in place, what each data-parallel rank counted on the last stage, and tells the other stages."""
    if mpu.is_pipeline_last_stage():
        dist.all_reduce(sums, group=mpu.get_data_parallel_group())
    if mpu.get_pipeline_model_parallel_world_size() > 1:
        group, last = mpu.get_pipeline_model_parallel_group(), mpu.get_pipeline_model_parallel_last_rank()
        dist.broadcast(sums, last, group)
