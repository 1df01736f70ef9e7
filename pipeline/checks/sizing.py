"""How long a recipe takes on many nodes and what it costs; `docs/sizing.md` has the arithmetic.

From the recipe alone, unless equal steps were measured: each number says which.
"""

from dataclasses import dataclass
from typing import Any, Literal

from perdure.pipeline.checks.measured import Measured, difference, holds_for_memory, measurements
from perdure.pipeline.checks.memory import memory_per_rank
from perdure.pipeline.checks.sizes import embedding_rows
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.shape import flops_per_token, model_shape
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import Recipe, Version

RESERVE_GIB = 5.0
"""GPU memory that is kept free for CUDA, NCCL's buffers and the allocator's waste."""
HIDDEN = 0.05
"""Share of a step that the reduction of gradients should stay below."""


@dataclass(frozen=True)
class Speed:
    """MFU of forward and backward passes, and where it is from.

    Attributes:
        mfu: Share of the peak.
        basis: `assumed`: the default. `given`: `cluster.gpu.mfu` is set. `measured`: by a run of equal passes. `measured
            whole`: by a run under the recipe's own layout, so that the whole step is.
        told: What says so.
    """

    mfu: float
    basis: Literal["assumed", "given", "measured", "measured whole"]
    told: str


def sizing(recipe: Recipe, nodes: int, gpus_per_node: int) -> dict[str, Any]:
    """Step time, throughput, days and cost.

    Args:
        recipe: Its layout fills the nodes.
        nodes: Number of nodes.
        gpus_per_node: GPUs of each, one rank on each.

    Returns:
        JSON-serialisable; bytes, seconds, days, FLOPs as numbers, shares in [0, 1]. `step` is that of a version
        without a forward pass to select by; `versions` has each one's own. `speed` and `memory` have their `basis`, and
        `not_used` what was measured of other steps, with the reason.

    Raises:
        PerdureError: If a path of `cluster.gpu.measured` is none.
    """
    layout, training, gpu = layout_of(recipe), recipe.training, recipe.cluster.gpu
    shape, rows = model_shape(recipe), embedding_rows(recipe)
    assert rows is not None  # a checked recipe has a readable tokenizer
    flops = flops_per_token(shape, rows, training.seq_length)
    memory = memory_per_rank(recipe)
    micro_batches = layout.micro_batches(training)
    tokens = training.global_batch_size * training.seq_length
    known = [(one, difference(recipe, one)) for one in measurements(recipe)]
    alike = [one for one, other in known if other is None]
    speed = speed_of(recipe, alike, gpus_per_node)
    model_flops = compute_seconds(flops * tokens, layout.world_size, gpu.peak_tflops, speed.mfu)
    compute = model_flops * (4 / 3 if recipe.parallel.recompute == "full" else 1)  # one more forward
    bubble = (layout.pipeline - 1) / micro_batches
    sent, reduce = reduction(recipe, layout.world_size, nodes > 1)
    seconds = compute * (1 + bubble) + reduce
    versions = [
        _version(recipe, name, version, compute * (1 + bubble), reduce, layout.world_size)
        for name, version in recipe.versions.items()
    ]
    whole = [one for one in alike if one.peak_bytes and holds_for_memory(recipe, one)]
    held = _latest(whole, layout.world_size)
    taken = held.peak_bytes if held and held.peak_bytes else memory["total"]
    free = (gpu.memory_gib - RESERVE_GIB) * 2**30 - taken
    found: dict[str, Any] = {
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "gpus": layout.world_size,
        "assumed": gpu.model_dump(mode="json", exclude={"measured"}),
        "speed": vars(speed),
        "not_used": [{"measured": x.told(), "mfu": x.mfu, "because": other} for x, other in known if other],
        "batch": {"samples": training.global_batch_size, "tokens": tokens, "micro_batches": micro_batches},
        "flops_per_token": flops,
        "memory": {
            "bytes": taken,
            "estimated_bytes": memory["total"],
            "basis": "measured" if held else "estimated",
            "told": held.told() if held else None,
            "gib": gpu.memory_gib,
            "reserve_gib": RESERVE_GIB,
            "fits": free >= 0,
            "save_bytes_per_node": memory["save"] * gpus_per_node,
        },
        "reduce": {
            "bytes": sent,
            "seconds": reduce,
            "gb_per_second_to_hide": sent / (HIDDEN * compute) / 1e9 if nodes > 1 else 0.0,
        },
        "bubble": bubble,
        "step": {
            "compute": compute,
            "bubble": compute * bubble,
            "reduce": reduce,
            "seconds": seconds,
            "mfu": speed.mfu * model_flops / seconds,
        },
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_per_gpu": tokens / seconds / layout.world_size,
        "versions": versions,
        "total": {key: sum(version[key] for version in versions) for key in ("days", "gpu_hours")},
    }
    if gpu.price_per_hour is not None:
        found["total"]["cost"] = found["total"]["gpu_hours"] * gpu.price_per_hour
    return found | {"advice": list(_advice(recipe, found))}


def speed_of(recipe: Recipe, alike: list[Measured], gpus_per_node: int) -> Speed:
    """MFU of a recipe's passes: what is set, else what the newest of some runs of equal passes reached, else the default.

    A run's whole step has a bubble and a reduction of gradients too, which are taken off by the same formulas that put them
    on here: so a step under the recipe's own layout comes out as it was measured.
    """
    gpu, layout = recipe.cluster.gpu, layout_of(recipe)
    newest = _latest(alike, layout.world_size)
    if newest is None:
        given = "mfu" in gpu.model_fields_set
        return Speed(gpu.mfu, "given" if given else "assumed", "cluster.gpu.mfu" if given else "the default")
    if "mfu" in gpu.model_fields_set:
        return Speed(
            gpu.mfu, "given", f"cluster.gpu.mfu; {newest.mfu:.1%} of whole steps measured: {newest.told()}"
        )
    replicas = {
        "data_parallel": newest.gpus // layout.replica_size,
        "distributed_optimizer": newest.distributed_optimizer,
    }
    training = recipe.training.model_copy(update={"global_batch_size": newest.samples})
    there = recipe.model_copy(
        update={"parallel": recipe.parallel.model_copy(update=replicas), "training": training}
    )
    step = newest.samples * training.seq_length / newest.tokens_per_second
    micro_batches = layout_of(there).micro_batches(training)
    _, reduce = reduction(there, newest.gpus, newest.gpus > gpus_per_node)
    passes = (step - reduce) / (1 + (layout.pipeline - 1) / micro_batches)
    extra = 4 / 3 if recipe.parallel.recompute == "full" else 1  # `sizing` adds a forward pass
    mfu = min(1.0, newest.mfu * step / passes * extra) if passes > 0 else newest.mfu
    here = layout.world_size, recipe.training.global_batch_size, recipe.parallel.distributed_optimizer
    whole = (newest.gpus, newest.samples, newest.distributed_optimizer) == here
    return Speed(mfu, "measured whole" if whole else "measured", newest.told())


def _latest(found: list[Measured], gpus: int) -> Measured | None:
    """The newest, of as many GPUs if there is one; of the same day the one that was named last."""
    return max(reversed(found), key=lambda one: (one.gpus == gpus, one.date), default=None)


def reduction(recipe: Recipe, gpus: int, crosses_nodes: bool) -> tuple[float, float]:
    """Bytes that a rank sends to other replicas in a step, and its seconds where they leave the node."""
    parallel, training = recipe.parallel, recipe.training
    sent = reduced_bytes(
        memory_per_rank(recipe)["parameters"],
        gpus // layout_of(recipe).replica_size,
        parallel.distributed_optimizer,
        2 if training.precision == "bf16" else 4,
    )
    return sent, sent / (recipe.cluster.gpu.network_gb_per_second * 1e9) if crosses_nodes else 0.0


def compute_seconds(flops: float, gpus: int, peak_tflops: float, mfu: float) -> float:
    """Time of FLOPs that are spread over GPUs at a share of their peak (Narayanan et al. 2021, equation 4)."""
    return flops / (gpus * peak_tflops * 1e12 * mfu)


def reduced_bytes(parameters: int, data_parallel: int, distributed_optimizer: bool, width: int) -> float:
    """Bytes that a rank sends in a step to the other replicas, by rings.

    Args:
        parameters: On the rank.
        data_parallel: Number of replicas.
        distributed_optimizer: A reduce-scatter of fp32 gradients and an all-gather of weights; else an all-reduce of
            fp32 gradients, which is the former and an all-gather of the same size.
        width: Bytes of a weight.
    """
    return parameters * (4 + (width if distributed_optimizer else 4)) * (data_parallel - 1) / data_parallel


def _version(
    recipe: Recipe, name: str, version: Version, passes: float, reduce: float, gpus: int
) -> dict[str, Any]:
    """One version's time; to select over the whole batch exactly takes one more forward pass."""
    selection, whole = (
        version.selection,
        4 if recipe.parallel.recompute == "full" else 3,
    )  # forward passes' worth
    extra = 1 + 1 / whole if selection and selection.k < 1 and selection.scope == "global" else 1.0
    steps, seconds = num_steps(recipe, version), passes * extra + reduce
    return {
        "name": name,
        "steps": steps,
        "tokens": steps * recipe.training.global_batch_size * recipe.training.seq_length,
        "step_seconds": seconds,
        "days": steps * seconds / 86_400,
        "gpu_hours": steps * seconds * gpus / 3600,
    }


def _advice(recipe: Recipe, found: dict[str, Any]) -> list[str]:
    """What an expert would change about a layout, a line each."""
    parallel, lines = recipe.parallel, []
    if not found["memory"]["fits"]:
        lines.append(
            f"does not fit into {found['memory']['gib']:g} GiB less {RESERVE_GIB:g} for CUDA and NCCL: raise "
            "tensor_parallel or pipeline_parallel, or lower micro_batch_size or seq_length"
            + ("" if parallel.distributed_optimizer else ", or set distributed_optimizer")
            + ("" if parallel.recompute == "full" else ", or set recompute")
        )
    if found["gpus_per_node"] % parallel.tensor_parallel:
        lines.append(
            f"tensor_parallel {parallel.tensor_parallel} does not divide the {found['gpus_per_node']} GPUs of a node: its "
            "traffic, several times that of the gradients, would cross nodes"
        )
    if found["bubble"] > 0.15:
        lines.append(
            f"the pipeline's bubble adds {found['bubble']:.0%}: more micro-batches (a larger batch, or fewer replicas) or "
            "fewer stages make it smaller"
        )
    if found["step"]["reduce"] > 0.15 * found["step"]["seconds"]:
        lines.append(
            f"the reduction of gradients takes {found['step']['reduce'] / found['step']['seconds']:.0%} of a step: fewer "
            "nodes or a larger batch make it smaller"
        )
    if parallel.tensor_parallel > 1 and not parallel.sequence_parallel:
        lines.append("sequence_parallel saves memory at no cost where tensor_parallel is above 1")
    if recipe.training.precision == "fp32":
        lines.append("precision is fp32: cluster.gpu.peak_tflops should be the peak of fp32, not of bf16")
    return lines
