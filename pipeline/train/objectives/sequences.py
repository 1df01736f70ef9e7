"""Sums over whole documents of a micro-batch, for objectives that are functions of documents' log-likelihoods.

Such an objective f(l) of l = -sum of a document's losses needs no second forward pass. Its gradient is that of the losses,
each times a number w = -f'(l) of its document, so that the losses' own backward pass does. `weigh` of
`selective_linear_cross_entropy` asks for these numbers once the losses are known: `sum_documents` adds up, `to_labels` gives
each label its document's number. What is reported is f, not the weighted losses; what it is divided by is up to `reduce`.

A document lies in one micro-batch if samples are made of whole documents (`plan/packing.py`), and its labels are those of
its inputs: `Batch.documents` says where they are, on the host as on the device. So nobody waits, and there are no atomic
operations: the same losses give the same bits.
"""

import torch
from torch import Tensor

from perdure.pipeline.model.documents import Documents
from perdure.pipeline.model.language_model import reference_nats
from perdure.pipeline.train.batch import Batch


def sum_documents(values: Tensor, documents: Documents) -> Tensor:
    """Sums a number of each label over documents.

    Args:
        values: Float [batch, sequence]; 0 where a label does not count.
        documents: Of the micro-batch; padding is among them.

    Returns:
        float64 [documents], row after row.
    """
    flat = values.reshape(-1)
    places = documents.ends[:-1, None] + torch.arange(max(documents.lengths), device=flat.device)
    inside = places < documents.ends[1:, None]
    return flat[places.clamp(max=len(flat) - 1)].masked_fill(~inside, 0.0).sum(1, dtype=torch.float64)


def to_labels(numbers: Tensor, documents: Documents, shape: torch.Size) -> Tensor:
    """Gives each label its document's number.

    Args:
        numbers: [documents], any type.
        documents: Of the micro-batch.
        shape: [batch, sequence].

    Returns:
        [batch, sequence], of the type of `numbers`.
    """
    lengths = documents.ends.diff()
    return numbers.repeat_interleave(lengths, output_size=sum(documents.lengths)).view(shape)


def reference_losses(batch: Batch) -> Tensor:
    """The reference's losses of a micro-batch, float32 [batch, sequence] in nats, 0 where a label does not count.

    That of a label that counts is there, and not clipped: the reader has refused the others (`Stream.complete`).
    """
    return reference_nats(batch.reference).masked_fill(~batch.valid, 0.0)
