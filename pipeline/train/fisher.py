"""The diagonal of the Fisher information of the weights that a version starts with, for its anchor (EWC)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor

from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import VersionInputs
from perdure.pipeline.model.anchors import FISHER
from perdure.pipeline.model.optimizer import make_optimizer, steps_taken
from perdure.pipeline.plan.fisher import open_fisher_order, sample_number
from perdure.pipeline.recipe import FisherAnchor, FisherExamples, Recipe
from perdure.pipeline.train.batch import Batch, blank_sample, collate, on_device
from perdure.pipeline.train.checkpoint import load_checkpoint
from perdure.pipeline.train.microbatches import run_batches
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.saved import agreed
from perdure.pipeline.train.streams import open_stream, read_sample

logger = logging.getLogger(__name__)


def parents_moments(recipe: Recipe, inputs: VersionInputs, model: torch.nn.Module) -> list[Tensor] | None:
    """Fisher information by the parent's last checkpoint, for a version that takes nothing else from that.

    All ranks call this before the model gets its weights.

    Returns:
        What `of_moments` says; None unless the version's anchor asks for it.
    """
    if (checkpoint := inputs.get("fisher_checkpoint")) is None:
        return None
    path = agreed(lambda: Path(checkpoint))
    assert path is not None
    optimizer = make_optimizer(recipe.training, model, recipe.parallel.distributed_optimizer)
    load_checkpoint(path, model, optimizer)
    return of_moments(optimizer)


def of_moments(optimizer: MegatronOptimizer) -> list[Tensor]:
    """AdamW's second moments without their bias: exp_avg_sq / (1 - beta2^t), by weight (2507.18807).

    They are running means of squared gradients of batch means, after clipping. Near a minimum that is the mean squared gradient
    of single samples divided by the global batch size.
    """
    (part,) = optimizer.chained_optimizers
    steps = steps_taken(optimizer)
    return [
        part.optimizer.state[weight]["exp_avg_sq"] / (1 - group["betas"][1] ** steps)
        for group in part.optimizer.param_groups
        for weight in group["params"]
    ]


def keep_information(
    recipe: Recipe,
    inputs: VersionInputs,
    version: VersionPaths,
    model: torch.nn.Module,
    optimizer: MegatronOptimizer,
    moments: list[Tensor] | None,
) -> None:
    """Fills the companion `fisher` of a version that begins; checkpoints hold it from then on. All ranks call this.

    Args:
        recipe: The whole recipe.
        inputs: The version's `inputs.json`.
        version: Its paths.
        model: The wrapped model, with the weights that the version starts with.
        optimizer: Its hooks are installed.
        moments: From `parents_moments`; None: those that the optimizer has, if any are wanted.
    """
    anchor = recipe.versions[inputs["version"]].anchor
    if not isinstance(anchor, FisherAnchor):
        return
    if isinstance(anchor.estimate, FisherExamples):
        batches = example_batches(recipe, inputs, version.plan, anchor.estimate)
        found = of_samples(recipe, model, optimizer, batches, anchor.estimate.examples)
        logger.info(
            f"anchor: Fisher information of {anchor.estimate.examples:,} samples of {anchor.estimate.source}"
        )
    else:
        found = of_moments(optimizer) if moments is None else moments
        logger.info("anchor: Fisher information of the parent's second moments")
    (part,) = optimizer.chained_optimizers
    for weight, value in zip(part.get_parameters(), found, strict=True):
        part.optimizer.state[weight][FISHER].copy_(value)


def example_batches(
    recipe: Recipe, inputs: VersionInputs, plan: Path, estimate: FisherExamples
) -> Iterator[Batch]:
    """This rank's samples of an estimate, each a micro-batch of its own; as many on every rank, the last may be padding
    alone."""
    documents, ends = open_fisher_order(plan)
    stream = open_stream(Path(inputs["data"][estimate.source]), None, documents, ends)
    length, replicas = recipe.training.seq_length, mpu.get_data_parallel_world_size()
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    for first in range(0, estimate.examples, replicas):
        number = first + mpu.get_data_parallel_rank()
        sample = blank_sample(inputs["eos_id"], length)
        if number < estimate.examples:
            sample = read_sample(stream, sample_number(number, int(ends[-1]), length, recipe.seed), length)
        yield on_device(collate(range(number, number + 1), [sample]), device)


def of_samples(
    recipe: Recipe,
    model: torch.nn.Module,
    optimizer: MegatronOptimizer,
    batches: Iterator[Batch],
    examples: int,
) -> list[Tensor]:
    """Mean over samples of the squared gradient of a sample's mean loss (the empirical Fisher information), by weight.

    A sample is a whole row of tokens, so what is squared is the gradient of the mean over its labels, not of one label.

    Args:
        recipe: Batch sizes and layout.
        model: The wrapped model.
        optimizer: Says which elements of the weights this rank has.
        batches: Of one sample each, see `example_batches`.
        examples: Samples on all ranks, by which sums are divided.
    """
    training = recipe.training.model_copy(update={"micro_batch_size": 1})
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    squares = [torch.zeros_like(weight.main_grad) for weight in weights]
    with gradients_of_replicas(model):
        for batch in batches:
            model.zero_grad_buffer()
            run_batches(model, LanguageModeling(), iter([batch]), 1, training, 1, forward_only=False)
            labels = max(1, int(batch.valid.sum()))
            for weight, square in zip(weights, squares, strict=True):
                square.addcmul_(weight.main_grad, weight.main_grad, value=1 / labels**2)
    # From here on they are treated as gradients are: the optimizer takes its part of them.
    for weight, square in zip(weights, squares, strict=True):
        dist.all_reduce(square, group=mpu.get_data_parallel_group())
        weight.main_grad.copy_(square / examples)
    optimizer.prepare_grads()
    (part,) = optimizer.chained_optimizers
    found = [weight.grad.clone() for weight in part.get_parameters()]
    optimizer.zero_grad()
    model.zero_grad_buffer()
    return found


@contextmanager
def gradients_of_replicas(model: torch.nn.Module) -> Iterator[None]:
    """Context in which every data-parallel replica keeps the gradient of its own micro-batch, summed over labels.

    It is whole under tensor and pipeline parallelism all the same.
    """
    config, finish = model.config, model.config.finalize_model_grads_func

    def finalise(models: list[torch.nn.Module], _num_tokens: Tensor | None, **options) -> None:
        finalize_model_grads(models, None, **options)

    model.finish_grad_sync = lambda *_args, **_options: None
    for group in model.bucket_groups:  # under `overlap_grad_reduce` each would reduce when it is whole
        group.register_grad_ready = lambda *_args: None
    config.finalize_model_grads_func = finalise
    try:
        yield
    finally:
        config.finalize_model_grads_func = finish
        del model.finish_grad_sync
        for group in model.bucket_groups:
            del group.register_grad_ready
