"""A frozen model beside the one that trains, on the same ranks: its last hidden states, and its output layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from perdure.pipeline.model.language_model import LanguageModel
from perdure.pipeline.recipe import Training
from perdure.pipeline.train.batch import Batch


@dataclass(frozen=True)
class Teacher:
    """This rank's part of a frozen model, in the precision and layout of the one that trains.

    Attributes:
        model: Without buffers for gradients or an optimizer. Its parameters still say that they require gradients where those
            of the trained model do: torch's matmul groups its products by that, and would not give the same bits.
        training: Shape of a micro-batch, and whether attention stays inside documents.
    """

    model: LanguageModel
    training: Training

    @property
    def output_weight(self) -> Tensor:
        """[vocabulary / tp, hidden], this rank's rows of the output layer; on the last pipeline stage."""
        if self.model.share_embeddings_and_output_weights:
            return self.model.shared_embedding_or_output_weight()
        return self.model.output_layer.weight

    @torch.no_grad()
    def hidden_states(self, batches: list[Batch]) -> list[Tensor]:
        """Last hidden states of some micro-batches, after the final norm.

        The ranks of a pipeline call this together, those that share its tensors, too, with the same micro-batches. Replicas
        need not agree on their number.

        Args:
            batches: Any number.

        Returns:
            By micro-batch [batch, sequence, hidden] in training precision, under sequence parallelism this rank's part of the
            sequence; on the last pipeline stage, nothing on the others.
        """
        if not batches:
            return []

        def forward_step(
            iterator: Iterator[Batch], model: LanguageModel
        ) -> tuple[Tensor, Callable[..., Any]]:
            batch = next(iterator)
            documents = batch.documents if self.training.document_mask else None
            hidden = model(batch.tokens, batch.positions, None, documents)
            # Transposed as the trained model's output layer transposes its own: the same bits come of the same weights.
            return hidden, lambda hidden, non_loss_data: hidden.transpose(0, 1)

        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(batches),
            model=[self.model],
            num_microbatches=len(batches),
            seq_length=self.training.seq_length,
            micro_batch_size=self.training.micro_batch_size,
            forward_only=True,
            collect_non_loss_data=True,
        )
