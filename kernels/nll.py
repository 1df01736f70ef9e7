"""Loss of every token without the logits: the scoring pass."""

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.kernels import chunked, reference
from perdure.kernels.inputs import LossInputs
from perdure.kernels.operation import fused
from perdure.kernels.parallel import merge_ranks, shard_columns
from perdure.kernels.selective import Impl, choose_impl


@torch.no_grad()
def linear_nll(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    vocab_size: int,
    tp_group: dist.ProcessGroup | None = None,
    softcap: float | None = None,
    entropy: bool = False,
    impl: Impl = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Per-token cross entropy of a linear output layer, without gradient.

    Equal, bit for bit, to the losses of `selective_linear_cross_entropy` by the same implementation.

    Args:
        hidden: [..., D], input of the output layer, fp32, bf16 or fp16, equal on all ranks of `tp_group`.
        weight: [V / tp, D], this rank's rows of the output layer, in the precision of `hidden`.
        labels: int64 [...], ids over the whole vocabulary.
        vocab_size: True size of the vocabulary; rows of `weight` beyond it are padding and get no probability.
        tp_group: Ranks that hold the other rows of `weight`; None: this rank holds all.
        softcap: c, if logits are c * tanh(z / c).
        entropy: Whether to return the entropy of the predicted distributions too.
        impl: See `Impl`.

    Returns:
        nll, float32 [...], in nats; with `entropy` also the entropy, float32 [...], in nats.
    """
    start, columns = shard_columns(weight, vocab_size, tp_group)
    if impl == "auto":
        impl = choose_impl(weight.device, labels.numel() * len(weight))
    rows = hidden.reshape(-1, hidden.shape[-1])
    inputs = LossInputs(rows, weight, labels.reshape(-1) - start, columns, softcap)
    if impl == "torch":
        nll, _lse, log_probs, shift = reference.log_probabilities(inputs, tp_group)
        spread = reference.entropy(log_probs, shift, tp_group) if entropy else torch.zeros_like(nll)
    else:
        if impl == "triton":
            stats, _ = fused().statistics(inputs, entropy)
        else:
            stats = chunked.statistics(inputs, entropy)
        maximum, total, target, moment = merge_ranks(stats, tp_group)
        nll = total.log() - (target - maximum)
        spread = total.log() - moment / total
    nll = nll.view(labels.shape)
    return (nll, spread.view(labels.shape)) if entropy else nll
