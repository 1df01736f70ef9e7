"""AdamW for Megatron-core without Transformer Engine or Apex.

Megatron falls back to torch's AdamW, which keeps a step count per parameter; the distributed optimizer cannot load
such a state (KeyError: 'step'). This one keeps the count in its parameter group, as Apex and Transformer Engine do,
and runs torch's fused kernel.
"""

from collections.abc import Iterator
from math import prod

import megatron.core.optimizer as megatron_optimizer
import torch
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_inplace, nested_values
from megatron.core.dist_checkpointing.mapping import (
    LocalNonpersistentObject,
    ShardedBase,
    ShardedTensor,
    ShardedTensorFactory,
)
from megatron.core.optimizer import OptimizerConfig, distrib_optimizer, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from perdure.pipeline.model.gradients import clip
from perdure.pipeline.model.step_hooks import StepHook
from perdure.pipeline.recipe import Training


class FusedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) by torch's fused kernel; one step count per group.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        betas: Decay of the two moments.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
        adam_w_mode: Megatron passes it to Apex-like optimizers; must be True.
        capturable: Megatron 0.19 passes it; must be False, since no step is captured in a CUDA graph.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.01,
        adam_w_mode=True,
        capturable=False,
    ):
        assert adam_w_mode and not capturable
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.hooks: tuple[StepHook, ...] = ()
        self.version_step = 0

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            params = [p for p in group["params"] if p.grad is not None and p.numel()]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            lr, states = float(group["lr"]), [self.state[p] for p in params]
            for hook in self.hooks:
                hook.before(params, states, self.version_step, lr)
            # The kernel wants it as a tensor; filled on the device, since the host would wait for a copy.
            count = torch.full((), float(group["step"]), device=params[0].device)
            torch._fused_adamw_(
                params,
                [p.grad for p in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [count] * len(params),
                lr=lr,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
            for hook in self.hooks:
                hook.after(params, states, self.version_step, lr)


def make_optimizer(training: Training, model: torch.nn.Module, distributed: bool) -> MegatronOptimizer:
    """Megatron's optimizer over a DDP-wrapped model.

    Args:
        training: AdamW's constants and the precision.
        model: The wrapped model.
        distributed: Shard the states over the data-parallel ranks.
    """
    # Also where Megatron found another one: a checkpoint goes on on any machine.
    megatron_optimizer.Adam = distrib_optimizer.Adam = FusedAdamW
    megatron_optimizer.USING_PYTORCH_OPTIMIZER = False
    distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_APEX_OPTIMIZER = True
    return get_megatron_optimizer(optimizer_config(training, distributed), [model])


def optimizer_config(training: Training, distributed: bool) -> OptimizerConfig:
    """Megatron's description of the optimizer, for `make_optimizer`."""
    bf16 = training.precision == "bf16"
    return OptimizerConfig(
        optimizer="adam",
        lr=0.0,
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_eps=training.adam_eps,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        use_distributed_optimizer=distributed,
        clip_grad=training.clip_grad,
    )


def set_learning_rate(optimizer: MegatronOptimizer, lr: float, weight_decay: float) -> None:
    """Sets every group's learning rate and decay; norms and biases (`wd_mult` 0) are not decayed."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay * group["wd_mult"]


@torch.no_grad()
def update(optimizer: MegatronOptimizer, norm: float) -> None:
    """One step of the optimizer with clipped gradients, as `ChainedOptimizer.step` takes it.

    Args:
        optimizer: `gradients.squared_norm` has made its gradients ready.
        norm: The global gradient norm, by which they are clipped.
    """
    clip(optimizer, norm)
    optimizer.step_with_ready_grads()


def portable_state(optimizer: MegatronOptimizer, weights: dict, loading: bool = False) -> dict:
    """Megatron's sharded optimizer states, such that every layout stores the same tensors under the same names.

    These are the two moments, companions of step hooks and, under bf16, the fp32 weights. Megatron's own formats also store
    parameter groups. Of those of the distributed optimizer, the one that survives another layout gathers all states on every
    replica, on GPU and host.

    Args:
        optimizer: The optimizer.
        weights: The model's sharded weights.
        loading: Make it to be filled, not to be stored.

    Returns:
        What dist_checkpointing saves or loads; `restore_state` takes what was loaded.
    """
    (part,) = optimizer.chained_optimizers
    fresh, distributed = not any(part.optimizer.state.values()), isinstance(part, DistributedOptimizer)
    if distributed:
        if fresh:
            part.load_state_dict(part.state_dict())  # makes the moments
        tree = {"pieces": _pieces(part, weights)}
    else:
        tree = part.sharded_state_dict(weights, is_loading=loading or fresh)
    if fresh:  # made, but not all of Megatron's optimizers fill them
        for tensors in part.optimizer.state.values():
            for tensor in tensors.values():
                tensor.zero_()
    kept = (ShardedBase, LocalNonpersistentObject)
    return dict_list_map_inplace(
        lambda leaf: leaf if isinstance(leaf, kept) else LocalNonpersistentObject(leaf), tree
    )


def _pieces(part: DistributedOptimizer, weights: dict) -> list[ShardedTensor]:
    """This rank's share of the distributed optimizer's states, as rectangles of the tensors that all layouts store.

    The optimizer divides its buffers, not tensors, among the replicas: a rank has a run of some parameters' elements. So each
    writes and reads what it has itself; nothing is gathered, and what is loaded lands in place.
    """
    stored = {}
    for leaf in nested_values(weights):
        if isinstance(leaf, ShardedTensorFactory):  # a parameter that is stored as several tensors
            stored[leaf.data] = leaf.build()
        elif isinstance(leaf, ShardedTensor):
            stored[leaf.data] = [leaf]
    pieces = []
    buckets = [bucket for buffer in part.gbuf_ranges for ranges in buffer.values() for bucket in ranges]
    for param, places in (item for bucket in buckets for item in bucket["param_map"].items()):
        states, own = part._get_main_param_and_optimizer_states(param), places["param"]
        if param.dtype == torch.float32:
            del states["param"]  # is the weight itself
        for whole in stored[param]:
            first = whole.data.storage_offset() - param.storage_offset()
            begin, end = max(own.start, first), min(own.end, first + whole.data.numel())
            for offset, size in rectangles(begin - first, end - first, whole.local_shape):
                length, added = prod(size), whole.prepend_axis_num
                place = (begin - own.start, begin - own.start + length)
                begin += length
                pieces += [
                    ShardedTensor(
                        key=f"optimizer.state.{'fp32_param' if name == 'param' else name}.{whole.key}",
                        data=state.detach()[slice(*place)].view((1,) * added + size),
                        dtype=state.dtype,
                        local_shape=(1,) * added + size,
                        global_shape=whole.global_shape,
                        global_offset=tuple(map(sum, zip(whole.global_offset, (0,) * added + offset))),
                        axis_fragmentations=None,
                        replica_id=(*whole.replica_id[:-1], 0),  # the last number is the replica's
                    )
                    for name, state in states.items()
                ]
    return pieces


def rectangles(
    begin: int, end: int, shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offset and size of the rectangles that the elements `begin` to `end` of a tensor, row by row, are made of, in order."""
    width = prod(shape[1:])
    while begin < end:
        row, rest = divmod(begin, width)
        if rest == 0 and (rows := (end - begin) // width):
            yield (row, *(0 for _ in shape[1:])), (rows, *shape[1:])
            begin += rows * width
        else:
            stop = min(end, (row + 1) * width)
            for offset, size in rectangles(rest, stop - row * width, shape[1:]):
                yield (row, *offset), (1, *size)
            begin = stop


@torch.no_grad()
def restore_state(optimizer: MegatronOptimizer, loaded: dict, steps: int) -> None:
    """Takes over what dist_checkpointing has loaded into `portable_state`.

    Args:
        optimizer: The optimizer; the model has its weights already.
        loaded: The loaded tree.
        steps: What `steps_taken` said when it was saved.
    """
    (part,) = optimizer.chained_optimizers
    if not isinstance(part, DistributedOptimizer):  # whose states were loaded in place
        part.load_state_dict(loaded)
    for group in part.optimizer.param_groups:
        group["step"] = steps


def steps_taken(optimizer: MegatronOptimizer) -> int:
    """Updates so far, by which AdamW corrects the bias of its moments."""
    return optimizer.param_groups[0].get("step", 0)
