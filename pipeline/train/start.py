"""How a version starts: weights alone (`init`, `update`), or a checkpoint (`resume`, `branch`, `update` with moments)."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer.optimizer import MegatronOptimizer

from perdure.pipeline.core.kernel_words import facts
from perdure.pipeline.core.manifest import differences
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import VersionInputs
from perdure.pipeline.model import huggingface, weights
from perdure.pipeline.model.choices import Choices
from perdure.pipeline.model.files import listed, model_tensors
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.optimizer import make_optimizer
from perdure.pipeline.model.shape import Shape, config_vocab_size, model_shape, num_parameters, tensor_sizes
from perdure.pipeline.model.step_hooks import install_hooks
from perdure.pipeline.model.vocabulary import extended_reader, extension_between
from perdure.pipeline.plan.lineage import continues_parent, resolved_schedule
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import Branch, Init, LlamaModel, Parallel, Recipe
from perdure.pipeline.train import fisher
from perdure.pipeline.train.checkpoint import load_checkpoint
from perdure.pipeline.train.hooks import hooks_of
from perdure.pipeline.train.saved import agreed, checkpoint_state, finished_checkpoints
from perdure.pipeline.train.state import TrainState

logger = logging.getLogger(__name__)


def begin(
    directory: Path, recipe: Recipe, inputs: VersionInputs, model: torch.nn.Module, choices: Choices
) -> tuple[MegatronOptimizer, TrainState]:
    """Sets the weights (and moments) that a version goes on from, and says what is restored and what is reset.

    All ranks call this.

    Args:
        directory: The version's directory.
        recipe: The whole recipe.
        inputs: The version's `inputs.json`.
        model: The wrapped model.
        choices: What it computes with.

    Returns:
        The optimizer, and the state of the run.
    """
    name, parallel = inputs["version"], recipe.parallel
    hooks = hooks_of(recipe, name)
    if own := agreed(lambda: next(reversed(finished_checkpoints(VersionPaths(directory).checkpoints)), None)):
        optimizer = make_optimizer(recipe.training, model, parallel.distributed_optimizer)
        install_hooks(optimizer, hooks)
        state = checkpoint_state(own)
        load_checkpoint(own, model, optimizer)
        logger.info(
            f"resume at step {state.step}: restored weights, moments, schedule and place in the plan; reset nothing"
        )
        return optimizer, adopt_kernels(choices, adopt_layout(recipe, name, state))
    state = adopt_kernels(choices, fresh_state(recipe, name))
    parent_checkpoint = inputs["parent_checkpoint"]
    if parent_checkpoint is None:
        moments = fisher.parents_moments(recipe, inputs, model)
        initial_weights(unwrap(model), recipe, model_shape(recipe), inputs["vocab_size"], inputs)
        optimizer = make_optimizer(recipe.training, model, parallel.distributed_optimizer)
        install_hooks(optimizer, hooks)
        fisher.keep_information(recipe, inputs, VersionPaths(directory), model, optimizer, moments)
        return optimizer, state
    optimizer = make_optimizer(recipe.training, model, parallel.distributed_optimizer)
    path = agreed(lambda: Path(parent_checkpoint))
    assert path is not None
    parents = checkpoint_state(path)
    load_checkpoint(path, model, optimizer)
    install_hooks(optimizer, hooks)
    fisher.keep_information(recipe, inputs, VersionPaths(directory), model, optimizer, None)
    restored, reset, start = "weights, moments", "schedule, plan", recipe.versions[name].start
    if continues_parent(recipe, name):
        restored, reset = f"{restored}, place in the plan", "schedule"
        state = replace(
            state,
            ratios=parents.ratios,
            perplexity=parents.perplexity,
            perplexity_on=parents.perplexity_on,
        )
    assert not isinstance(start, Init)
    origin = (
        f"branch of {start.parent} at step {start.step}"
        if isinstance(start, Branch)
        else f"update of {start.parent}"
    )
    logger.info(f"{origin}: restored: {restored}; reset: {reset}")
    adopt_layout(recipe, name, parents)
    adopt_kernels(choices, parents)
    return optimizer, state


def fresh_state(recipe: Recipe, name: str) -> TrainState:
    """The state before a version's first step."""
    return TrainState(
        device_seconds=0.0,
        parallel=recipe.parallel.model_dump(),
        schedule=resolved_schedule(recipe, name).model_dump(mode="json"),
        total_steps=num_steps(recipe, recipe.versions[name]),
    )


def initial_weights(model, recipe: Recipe, shape: Shape, vocab_size: int, inputs: VersionInputs) -> None:
    """Sets the weights that a version starts from, and says what is restored and what is reset."""
    fresh = "reset: optimizer, schedule, plan"
    if inputs["initial_weights"] is not None:
        path = Path(inputs["initial_weights"])
        tensors, unread = model_tensors(path, tensor_sizes(shape, config_vocab_size(path)))
        read, what = huggingface.weights_reader(path, tensors), "weights"
        if extension := extension_between(path, Path(inputs["tokenizer"])):
            read = extended_reader(read, extension, vocab_size)
            what += f" (rows of {len(extension.pieces):,} new tokens from the means of their pieces')"
        weights.load_weights(model, shape, read)
        start = (
            f"update of {inputs['parent']}" if inputs["parent"] else f"init from {inputs['initial_weights']}"
        )
        logger.info(f"{start}: restored: {what}; {fresh}")
        if unread:
            logger.info(
                f"nothing reads {len(unread)} tensors of {path}, and no version has them: {listed(unread)}"
            )
    else:
        assert isinstance(recipe.model, LlamaModel)
        weights.load_weights(
            model, shape, weights.random_weights(shape, vocab_size, recipe.model.init_std, recipe.seed)
        )
        logger.info(
            f"init: {num_parameters(shape, vocab_size):,} random weights (seed {recipe.seed}); {fresh}"
        )


def adopt_layout(recipe: Recipe, name: str, state: TrainState) -> TrainState:
    """The state of a checkpoint under the recipe's layout; logs it if it was written under another one."""
    written = Parallel.model_validate(state.parallel)  # before there were some of its fields, perhaps
    if differing := differences(written.model_dump(), recipe.parallel.model_dump()):
        selection, replicas = recipe.versions[name].selection, recipe.parallel.data_parallel
        kept = "from here on equal to rounding, no longer bit for bit, to a run that kept it"
        if (
            selection
            and selection.k < 1
            and selection.scope == "dp_microbatch"
            and state.parallel["data_parallel"] != replicas
        ):
            kept = (
                "from here on other tokens are selected than in a run that kept it, because with `scope: dp_microbatch` "
                "those of all replicas compete"
            )
        logger.info(f"the layout changed ({'; '.join(differing)}): {kept}")
    return replace(state, parallel=recipe.parallel.model_dump())


def adopt_kernels(choices: Choices, state: TrainState) -> TrainState:
    """The state of a checkpoint with what computes from here on; rank 0 warns if something else computed before, and if
    something of what computes is not in the checkpoint.

    Old checkpoints do not say what computed.
    """
    now, recorded = {"step": state.step, **choices.as_json()}, state.kernels or []
    if state.step and choices.fp8 and choices.fp8["recipe"] == "delayed" and dist.get_rank() == 0:
        logger.warning(
            "kernels.fp8.recipe delayed: its scales are in no checkpoint and begin anew, so from here on this is not bit for "
            "bit what a run without interruption would be"
        )
    if recorded and (changes := changed_kernels(recorded[-1], now)):
        if dist.get_rank() == 0:
            logger.warning(
                f"what computes changed ({'; '.join(changes)}): from here on equal to rounding, no longer bit for bit, to a "
                "run that kept it"
            )
    elif recorded:
        return state
    return replace(state, kernels=[*recorded, now])


def changed_kernels(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two records of what computed: old -> new, a phrase each."""
    before, after = facts(old), facts(new)
    return [
        f"{name} {before.get(name, 'not used')} -> {after.get(name, 'not used')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
