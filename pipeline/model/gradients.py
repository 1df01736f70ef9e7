"""Gradients between the backward pass and the update: divided by tokens, measured, clipped; the host waits for none of it.

Megatron-core asks the GPU on the way: for the tokens that it divides by, and, without Apex or Transformer Engine, for every
parameter's norm by itself.
"""

from typing import Any

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor


def finish_gradients(models: list[torch.nn.Module], num_tokens: Tensor | None = None, **options: Any) -> None:
    """Megatron's `finalize_model_grads`, with the division by the tokens of the global batch on the device.

    Args:
        models: This rank's stages, wrapped for data parallelism.
        num_tokens: int32 [], what the micro-batches of this rank counted, on the last pipeline stage; a batch of 0 tokens
            divides by nothing. None: no division.
        **options: Of Megatron's function.
    """
    finalize_model_grads(models, None, **options)
    if num_tokens is None:
        return
    if mpu.get_pipeline_model_parallel_world_size() > 1:
        last, group = mpu.get_pipeline_model_parallel_last_rank(), mpu.get_pipeline_model_parallel_group()
        dist.broadcast(num_tokens, last, group=group)
    dist.all_reduce(num_tokens, group=mpu.get_data_parallel_group(with_context_parallel=True))
    factor = torch.where(num_tokens > 0, 1.0 / num_tokens, 1.0)
    for model in models:
        model.scale_gradients(factor)


@torch.no_grad()
def squared_norm(optimizer: MegatronOptimizer) -> Tensor:
    """The sum of squares of the global gradient: what Megatron's `get_grad_norm_fp32` takes the root of, the same bits on CPUs.

    Megatron says which gradients count: a weight that ranks share, for tensor parallelism or tied over pipeline stages, on one
    of them; shards of the distributed optimizer on all ranks.

    Args:
        optimizer: Gradients are ready in the model's buffers.

    Returns:
        float32 [1], on the device; equal on all ranks whose parts make up one model.
    """
    optimizer.prepare_grads()
    (part,) = optimizer.chained_optimizers
    if gradients := part.get_main_grads_for_grad_norm():
        total = torch.stack(torch._foreach_norm(gradients)).norm().view(1) ** 2
    else:
        total = torch.zeros(1, device=torch.cuda.current_device() if torch.cuda.is_available() else "cpu")
    dist.all_reduce(total, group=part.get_grad_stats_parallel_group())
    return total


@torch.no_grad()
def clip(optimizer: MegatronOptimizer, norm: float) -> None:
    """Scales gradients by `clip_grad / (norm + 1e-6)` if that is below 1, as Megatron does; with `clip_grad` 0 never.

    Args:
        optimizer: `squared_norm` has made its gradients ready.
        norm: Of the global gradient.
    """
    (part,) = optimizer.chained_optimizers
    factor = part.config.clip_grad / (norm + 1e-6)
    gradients = [weight.grad for weight in part.get_parameters() if weight.grad is not None]
    if 0 < factor < 1 and gradients:
        torch._foreach_mul_(gradients, factor)
