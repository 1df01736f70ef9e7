"""Packed samples and micro-batches: tokens, labels, scores, and what the reader knows of where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from perdure.pipeline.core.sending import sent
from perdure.pipeline.model.documents import Documents, documents_of


class Sample(NamedTuple):
    """One packed sample on the host.

    Attributes:
        tokens: int64 [sequence + 1]; inputs are `[:-1]`, labels `[1:]`; padded with end-of-sequence.
        reference: int32 [sequence], what each label's score subtracts, in milli-nats, `REF_MISSING` where there is none.
        num_valid: Labels that are not padding; they come first.
        documents: Lengths of the documents that the inputs belong to, in order, padding as one more; they add up to
            the sequence. An end-of-sequence token opens the document that follows it.
        counted: bool [sequence], which of the valid labels count; None: all of them.
        sides: int8 [sequence], 1 for a label of a chosen answer, -1 of a rejected one, 0 for all others; None: all are others.
    """

    tokens: np.ndarray
    reference: np.ndarray
    num_valid: int
    documents: tuple[int, ...]
    counted: np.ndarray | None = None
    sides: np.ndarray | None = None


class HostBatch(NamedTuple):
    """One micro-batch of consecutive samples as it was read: numpy's arrays alone, so that a thread beside training touches
    neither torch nor the GPU. Attributes as of `Batch`.
    """

    indices: range
    tokens: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    documents: tuple[int, ...]
    reference: np.ndarray
    source: np.ndarray
    replayed: np.ndarray
    read: np.ndarray | None = None
    sides: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """One micro-batch of consecutive samples on its device.

    Attributes:
        indices: Global indices of its samples.
        tokens: int64 [batch, sequence].
        labels: int64 [batch, sequence].
        valid: bool [batch, sequence], the mask of labels that count.
        positions: int64 [batch, sequence], place of each token in its sample.
        documents: Where the packed documents lie, row after row.
        reference: int32 [batch, sequence], what the score subtracts, in milli-nats, `REF_MISSING` where there is none.
        source: int64 [batch], number of the mixture key.
        replayed: bool [batch], samples of old data.
        selected: bool [batch, sequence], a selection made beforehand, if one was.
        read: bool [batch, sequence], labels that are not padding, whether they count or not; None: `valid` has all of them.
        teacher_hidden: [batch, sequence, hidden], the last hidden states of the model that it is compared with, under sequence
            parallelism this rank's part of the sequence; on the last pipeline stage, if they were asked for.
        amounts: What an objective counted in the whole global batch, float64; None: it counts nothing beforehand.
        host: As it was read: what the host knows of it without asking the device. None if it was not read.
        sides: int8 [batch, sequence], see `Sample`; None: no label is of a pair.
        label_weight: float32 [batch, 1], factor of a sample's cross entropy; None: the objective gives none.
    """

    indices: range
    tokens: torch.Tensor
    labels: torch.Tensor
    valid: torch.Tensor
    positions: torch.Tensor
    documents: Documents
    reference: torch.Tensor
    source: torch.Tensor
    replayed: torch.Tensor
    selected: torch.Tensor | None = None
    teacher_hidden: torch.Tensor | None = None
    read: torch.Tensor | None = None
    amounts: torch.Tensor | None = None
    host: HostBatch | None = None
    sides: torch.Tensor | None = None
    label_weight: torch.Tensor | None = None


def collate(
    indices: range,
    samples: Sequence[Sample],
    sources: Sequence[int] | None = None,
    replayed: Sequence[bool] | None = None,
) -> HostBatch:
    """Stacks samples into a micro-batch.

    Args:
        indices: Their global indices.
        samples: At least one, all as long.
        sources: Numbers of their mixture keys; None: all are of the first.
        replayed: Whether each is of old data; None: none is.
    """
    tokens = np.stack([sample.tokens for sample in samples])
    length = tokens.shape[1] - 1
    read = np.arange(length)[None] < np.array([sample.num_valid for sample in samples])[:, None]
    valid = read.copy()
    masked = any(sample.counted is not None for sample in samples)
    for row, sample in enumerate(samples):
        if sample.counted is not None:
            valid[row] &= sample.counted
    return HostBatch(
        indices,
        tokens=np.ascontiguousarray(tokens[:, :-1]),
        labels=np.ascontiguousarray(tokens[:, 1:]),
        valid=valid,
        documents=tuple(size for sample in samples for size in sample.documents),
        reference=np.stack([sample.reference for sample in samples]),
        source=np.array([0] * len(samples) if sources is None else sources, np.int64),
        replayed=np.array([False] * len(samples) if replayed is None else replayed),
        read=read if masked else None,
        sides=_sides(samples, length),
    )


def _sides(samples: Sequence[Sample], length: int) -> np.ndarray | None:
    """int8 [samples, length]; None if no sample has any."""
    if all(sample.sides is None for sample in samples):
        return None
    return np.stack([np.zeros(length, np.int8) if each.sides is None else each.sides for each in samples])


def on_device(host: HostBatch, device: torch.device) -> Batch:
    """A micro-batch on its device; nobody waits for the copies, see `sent`. On the CPU the arrays are shared."""
    rows, length = host.tokens.shape

    def of(array: np.ndarray) -> torch.Tensor:
        return sent(torch.from_numpy(array), device)

    return Batch(
        indices=host.indices,
        tokens=of(host.tokens),
        labels=of(host.labels),
        valid=of(host.valid),
        positions=torch.arange(length, device=device).expand(rows, length),
        documents=documents_of(host.documents, device),
        reference=of(host.reference),
        source=of(host.source),
        replayed=of(host.replayed),
        read=None if host.read is None else of(host.read),
        host=host,
        sides=None if host.sides is None else of(host.sides),
    )


def blank_sample(eos_id: int, seq_length: int) -> Sample:
    """A sample of padding alone, for a row behind the last one."""
    tokens, reference = np.full(seq_length + 1, eos_id, np.int64), np.zeros(seq_length, np.int32)
    return Sample(tokens, reference, 0, (seq_length,))
