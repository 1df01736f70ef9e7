"""O-LoRA: a penalty that keeps an adapter's rows of A orthogonal to those of earlier adapters (Wang et al. 2023, arXiv
2310.14152).

Of a module it is the sum of |A_old A^T| over all pairs of rows: absolute values, as in the authors' code. The paper writes
squares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import RowParallelLinear
from torch import Tensor, nn

from perdure.pipeline.model.adapter_files import matrix_reader
from perdure.pipeline.model.adapters import adapted_linears
from perdure.pipeline.model.gradients import finish_gradients


def overlap(old: Tensor, new: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor]:
    """The sum of |A_old A_new^T| and its gradient with respect to A_new.

    Args:
        old: float32 [r_old, in], the earlier adapters' rows; with `group` this rank's columns.
        new: [r, in], as `old`.
        group: Ranks that hold the other columns.

    Returns:
        The sum, float32, and sign(A_old A_new^T)^T A_old, float32 [r, in].
    """
    product = old @ new.float().t()
    if group is not None:
        dist.all_reduce(product, group=group)
    return product.abs().sum(), product.sign().t() @ old


@dataclass
class OrthogonalPenalty:
    """O-LoRA's penalty of a model's adapters; its gradient is added whenever Megatron has finished those of the loss.

    Attributes:
        kept: For each module that an earlier adapter has, too: the rows of its A matrices, this one's A, and who has other
            columns.
        weight: Of the penalty.
        overlaps: Sum of |A_old A^T| over this stage's modules when gradients were last finished, float64 scalar.
    """

    kept: list[tuple[Tensor, nn.Parameter, dist.ProcessGroup | None]]
    weight: float
    overlaps: Tensor | None = None

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Adds weight * sign(A_old A^T)^T A_old to each `main_grad`, and measures the penalty."""
        found = []
        for old, new, group in self.kept:
            value, gradient = overlap(old, new, group)
            new.main_grad.add_(gradient, alpha=self.weight)
            found.append(value.double())
        self.overlaps = torch.stack(found).sum() if found else None

    def value(self) -> float:
        """The penalty of the weights that the last step began with, over all pipeline stages; all ranks call this."""
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        total = torch.zeros((), dtype=torch.float64, device=device)
        if self.overlaps is not None:
            total += self.weight * self.overlaps
        dist.all_reduce(total, group=mpu.get_pipeline_model_parallel_group())
        return float(total)


def keep_orthogonal(model: nn.Module, directories: list[Path], weight: float) -> OrthogonalPenalty:
    """From now on adds the penalty's gradient to that of the loss whenever Megatron has finished gradients, before clipping.

    It is no sum over tokens: so it is added once, in fp32, after gradients are reduced over ranks and divided by tokens. What
    the trainer tells as the loss is that of the tokens alone.

    Args:
        model: An unwrapped `LanguageModel` with adapters, below DDP.
        directories: PEFT directories of the earlier adapters.
        weight: Of the penalty.

    Returns:
        The penalty, which measures itself as gradients are finished.
    """
    penalty = OrthogonalPenalty(_earlier_rows(model, [matrix_reader(path) for path in directories]), weight)

    def finish(*args, **kwargs):
        finish_gradients(*args, **kwargs)
        penalty.add_gradients()

    model.config.finalize_model_grads_func = finish
    return penalty


def _earlier_rows(
    model: nn.Module, readers: list[Callable[[str], Tensor | None]]
) -> list[tuple[Tensor, nn.Parameter, dist.ProcessGroup | None]]:
    """For each module that an earlier adapter has, too: the rows of its A matrices, this one's A, and who has other columns."""
    found, parallel = [], mpu.get_tensor_model_parallel_world_size()
    for linear in adapted_linears(model):
        split = isinstance(linear, RowParallelLinear) and parallel > 1
        for module, name in linear.joint.names.items():
            new = linear.lora_A[module]
            old = [matrix for read in readers if (matrix := read(name)) is not None]
            if old:
                rows = torch.cat(old)
                if split:
                    rows = rows.chunk(parallel, 1)[mpu.get_tensor_model_parallel_rank()]
                group = mpu.get_tensor_model_parallel_group() if split else None
                found.append((rows.to(new.device, torch.float32).contiguous(), new, group))
    return found
