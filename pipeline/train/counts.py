"""What a batch is counted as: tokens and losses by source, selected tokens, fingerprints."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

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
        tokens: Labels that count, per source [sources]: those that a mask of their source leaves out do not.
        loss: Their summed loss in nats, per source [sources].
        selected_tokens: Labels of new data trained on.
        selected_loss: Their summed loss.
        unscored_tokens: Labels of new data without a reference, which cannot be selected while k < 1.
        stream: Fingerprint of the labels and their places; equal if and only if (but for collisions) the same tokens
            were read, whatever the layout.
        selection: Fingerprint of the selected labels, likewise.
        threshold: Score that divides this batch; scope `global_lagged` alone has one.
        sums: What else the objective counted, by the names of its `sums`.
        read: Labels read, per source [sources]: all but padding; None: those that count.
    """

    tokens: list[float]
    loss: list[float]
    selected_tokens: float
    selected_loss: float
    unscored_tokens: float
    stream: str
    selection: str
    threshold: float | None = None
    sums: dict[str, list[float]] = field(default_factory=dict)
    read: list[float] | None = None

    @property
    def read_tokens(self) -> list[float]:
        """Labels read, per source [sources], whether they count or not."""
        return self.tokens if self.read is None else self.read

    @property
    def mean_loss(self) -> float:
        """Nats per token that counts; 0 if none does."""
        return sum(self.loss) / (sum(self.tokens) or 1.0)


@torch.no_grad()
def count_batch(nll: Tensor, selected: Tensor, batch: Batch, num_sources: int) -> dict[str, Tensor]:
    """Counts one micro-batch.

    Args:
        nll: float32 [batch, sequence], loss of every label in nats.
        selected: bool [batch, sequence], labels that are trained on.
        batch: What they are of.
        num_sources: Keys of the mixture.

    Returns:
        `sums`, float64 [3 * num_sources + 3]: `tokens`, `loss` and `read` of `Counts`, and the other numbers; `prints`, see
        `fingerprints`.
    """
    exact, tokens, read = nll.double() * batch.valid, batch.valid.double(), _read(batch).double()
    sums = torch.zeros(3 * num_sources + 3, dtype=torch.float64, device=nll.device)
    sums[:num_sources].index_add_(0, batch.source, tokens.sum(1))
    sums[num_sources : 2 * num_sources].index_add_(0, batch.source, exact.sum(1))
    fresh = ~batch.replayed[:, None]
    chosen = selected & fresh
    unscored = (batch.valid & fresh & (batch.reference == REF_MISSING)).sum()
    sums[2 * num_sources : -3].index_add_(0, batch.source, read.sum(1))
    sums[-3], sums[-2], sums[-1] = chosen.sum(), (exact * chosen).sum(), unscored
    return {"sums": sums, "prints": fingerprints(batch, selected)}


def _read(batch: Batch) -> Tensor:
    """Labels that are not padding, bool [batch, sequence]."""
    return batch.valid if batch.read is None else batch.read


def fingerprints(batch: Batch, selected: Tensor) -> Tensor:
    """int64 [2]: sums, wrapping, of a mix of every label read (every selected label) with its place in the whole run.

    Labels that a mask leaves out are read, too: the first sum says what text there was, whatever is trained on of it.
    Addition commutes, so how samples are spread over ranks and micro-batches does not matter.
    """
    places = torch.arange(batch.indices.start, batch.indices.stop, device=selected.device)[:, None]
    places = places * selected.shape[1] + torch.arange(selected.shape[1], device=selected.device)
    mixed = (places * 0x5851F42D4C957F2D + batch.labels) * 0x2545F4914F6CDD1D
    mixed = (mixed ^ (mixed >> 29)) * 0x1B873593CC9E2D51
    mixed = mixed ^ (mixed >> 32)
    return torch.stack([(mixed * _read(batch)).sum(), (mixed * selected).sum()])


def sum_counts(
    counted: list[dict[str, Tensor]], num_sources: int, extra: Mapping[str, int] = MappingProxyType({})
) -> dict[str, Tensor]:
    """Adds up micro-batches and data-parallel ranks, on the device; all ranks call this.

    Args:
        counted: From `count_batch`, on the last pipeline stage.
        num_sources: Keys of the mixture.
        extra: Names of further sums, float64, and how many numbers each has: `Objective.sums`.

    Returns:
        `sums` and `prints` as `count_batch` has them, and those of `extra`; the other pipeline stages do not know them, and
        have zeros.
    """
    shapes = {"sums": (3 * num_sources + 3, torch.float64), "prints": (2, torch.int64)}
    shapes |= {name: (size, torch.float64) for name, size in extra.items()}
    if not mpu.is_pipeline_last_stage():
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        return {name: torch.zeros(size, dtype=dtype, device=device) for name, (size, dtype) in shapes.items()}
    summed = {name: torch.stack([own[name] for own in counted]).sum(0) for name in shapes}
    for own in summed.values():
        add_replicas(own)
    return summed


def read_counts(summed: dict[str, Tensor], *numbers: Tensor) -> tuple[Counts, list[float]]:
    """Brings what was summed to the host: one all-reduce and one copy, for which the host waits; all ranks call this.

    What ranks know of the same thing should be the same bits. Should it not be, each gets the highest: so whatever they decide
    by it is one decision, and what is no number on one rank is none on all.

    Args:
        summed: From `sum_counts`; perhaps with a `threshold`, float64 []: infinity is none.
        *numbers: Floats that every rank knows, each of one element.

    Returns:
        The counts, and the numbers.
    """
    names = ["sums", *(name for name in summed if name not in ("sums", "prints"))]
    floats = [summed[name].view(-1) for name in names]
    told = torch.cat([_ordered(torch.cat(floats)), summed["prints"]])
    if not mpu.is_pipeline_last_stage():
        told = torch.full_like(told, torch.iinfo(torch.int64).min)
    own = [_ordered(torch.cat([number.double().view(-1) for number in numbers]))] if numbers else []
    everything = torch.cat([told, *own])
    dist.all_reduce(everything, op=dist.ReduceOp.MAX)
    host = everything.cpu()
    stream, selection = (f"{mark & (1 << 64) - 1:016x}" for mark in host[len(told) - 2 : len(told)].tolist())
    sums, *others = host[: len(told) - 2].view(torch.float64).split([len(own) for own in floats])
    *by_source, selected_tokens, selected_loss, unscored_tokens = sums.tolist()
    extra = {name: other.tolist() for name, other in zip(names[1:], others, strict=True)}
    (threshold,) = extra.pop("threshold", [math.inf])
    number = len(by_source) // 3
    counts = Counts(
        tokens=by_source[:number],
        loss=by_source[number : 2 * number],
        read=by_source[2 * number :],
        selected_tokens=selected_tokens,
        selected_loss=selected_loss,
        unscored_tokens=unscored_tokens,
        stream=stream,
        selection=selection,
        threshold=threshold if math.isfinite(threshold) else None,
        sums=extra,
    )
    return counts, host[len(told) :].view(torch.float64).tolist()


def _ordered(values: Tensor) -> Tensor:
    """The bits of float64 as int64. Those of numbers that are not negative order as the numbers do, and a NaN is above all."""
    return values.where(~values.isnan(), torch.nan).view(torch.int64)


def add_replicas(sums: Tensor) -> None:
    """Adds up, in place, what each data-parallel rank counted."""
    dist.all_reduce(sums, group=mpu.get_data_parallel_group())


def add_up(sums: Tensor) -> None:
    """Adds up, in place, what each data-parallel rank counted on the last stage, and tells the other stages."""
    if mpu.is_pipeline_last_stage():
        add_replicas(sums)
    if mpu.get_pipeline_model_parallel_world_size() > 1:
        group, last = mpu.get_pipeline_model_parallel_group(), mpu.get_pipeline_model_parallel_last_rank()
        dist.broadcast(sums, last, group)
