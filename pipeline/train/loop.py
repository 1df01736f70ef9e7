"""The steps of one version, from where it stands to the end of its budget."""

import logging
import signal
import time
from functools import partial
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch

from perdure.pipeline.core.errors import PerdureError, Stopped
from perdure.pipeline.core.hashes import hash_of
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.model.collectives import from_first
from perdure.pipeline.model.device import devices
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.optimizer import set_learning_rate
from perdure.pipeline.model.shape import flops_per_token, model_shape
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.plan.lineage import kept_steps
from perdure.pipeline.plan.plan import consumed_between, shares_from
from perdure.pipeline.plan.schedule import learning_rate
from perdure.pipeline.recipe import Guard, Recipe
from perdure.pipeline.train import process
from perdure.pipeline.train.checkpoint import (
    agreed,
    checkpoint_state,
    finished_checkpoints,
    last_scheduled,
    load_checkpoint,
)
from perdure.pipeline.train.counts import Counts
from perdure.pipeline.train.evaluate import evaluate, summaries
from perdure.pipeline.train.guard import Trouble, agree, assess, remember, rolls_back
from perdure.pipeline.train.loader import Loader
from perdure.pipeline.train.metrics import competing, console_line, heldout_words, model_flop_utilisation
from perdure.pipeline.train.objectives import objective_of
from perdure.pipeline.train.reweight import reweight
from perdure.pipeline.train.start import restored_schedule
from perdure.pipeline.train.step import train_step

logger = logging.getLogger(__name__)


def run_steps(
    directory, recipe: Recipe, version, model, optimizer, dataset, state, device, recorder, checkpoints
) -> dict:
    """Steps until the budget is spent; returns the final state.

    Raises:
        Stopped: If a signal asked for it; everything is saved.
        PerdureError: If a step is broken, and the guard stops there.
    """
    training, guard, (schedule, steps) = recipe.training, recipe.training.guard, restored_schedule(state)
    tokens_per_step = training.seq_length * training.global_batch_size
    inputs = read_inputs(VersionPaths(directory))
    data = {name: Path(path) for name, path in inputs["data"].items()}
    flops = flops_per_token(model_shape(recipe), inputs["vocab_size"], training.seq_length)
    weight_decay = training.weight_decay if version.weight_decay is None else version.weight_decay
    kept = kept_steps(recipe, inputs["version"])
    first_step, started, (_, number_of_devices) = state["step"], time.monotonic(), devices()
    seconds_before, recent = state["seconds"], []  # tokens and seconds of the steps since the last line
    # Checkpoints did not always count them; those that did not count tokens count padding up to here.
    read = consumed_between(dataset.plan, dataset.plan.first_sample, first_step * training.global_batch_size)
    consumed = {key: samples * training.seq_length for key, samples in read.items()}
    state = {"device_seconds": state["seconds"] * number_of_devices, "consumed": consumed} | state
    saved = first_step
    if rolls_back(guard) and not from_first(lambda: bool(finished_checkpoints(checkpoints.directory))):
        checkpoints.save(model, optimizer, state | {"scheduled": True})

    def leave(number: int) -> None:
        """Saves what is not saved yet, and says that a signal ended it."""
        if saved != state["step"]:
            _save(checkpoints, model, optimizer, state | {"scheduled": False}, recorder)
        checkpoints.wait()
        name = signal.Signals(number).name
        outcome = "saved" if state["step"] else "nothing is lost"
        logger.info(
            f"stopped by {name} at step {state['step']}: {outcome}; run the same command again to go on"
        )
        raise Stopped

    for step in range(first_step + 1, steps + 1):
        heldout: dict[str, float] | None = None
        if recipe.evaluation.interval and (step - 1) % recipe.evaluation.interval == 0:
            # What a signal interrupts is measured by the next start, before its first step.
            measured = evaluate(
                model,
                recipe,
                measured_domains(recipe),
                data,
                device,
                lambda: bool(agree(process.requested())),
            )
            if measured is None or agree(process.requested()):
                leave(agree(process.requested()))
            heldout = {name: domain.summary["loss"] for name, domain in measured.items()}
            logger.info(f"step {step - 1}: {heldout_words(summaries(measured))}")
        dataset, state = reweight(dataset, state, recipe, version, model, data, device)
        first_sample = dataset.plan.first_sample + (step - 1) * training.global_batch_size
        if recorder and (shares := shares_from(dataset.plan, first_sample)):
            recorder.mixture(step, shares)
            if step > 1:
                logger.info(
                    f"step {step}: mixture {', '.join(f'{k} {share:.2%}' for k, share in shares.items() if share)}"
                )
        begun = time.perf_counter()
        lr = learning_rate(schedule, step, steps)
        set_learning_rate(optimizer, lr, weight_decay)
        judge = partial(_judge, guard, state["losses"])
        loader = Loader(dataset, layout_of(recipe), training, mpu.get_data_parallel_rank(), device)
        objective = objective_of(version).with_threshold(state["threshold"])
        counts, grad_norm, trouble = train_step(
            model, optimizer, objective, loader, training, first_sample, judge
        )
        torch.cuda.synchronize()  # the update's last kernels are part of the step
        seconds = time.perf_counter() - begun
        if not trouble:
            state = state | {
                "scored": state["scored"] + round(competing(dataset.plan.keys, counts)[0]),
                "selected": state["selected"] + round(counts.selected_tokens),
                "threshold": counts.threshold,
                "losses": remember(guard, state["losses"], counts.mean_loss),
            }
            skipped = None
        else:
            what = f"version {directory.name}: loss {counts.mean_loss:.4g} and gradient norm {grad_norm:.4g} at step {step}"
            checkpoints.wait()
            state, skipped = _pass_over(
                step, first_sample, trouble, what, recipe, state, model, optimizer, checkpoints
            )
        state = state | {
            "step": step,
            "seconds": state["seconds"] + seconds,
            "device_seconds": state["device_seconds"] + seconds * number_of_devices,
            "consumed": {
                key: state["consumed"][key] + round(tokens)
                for key, tokens in zip(dataset.plan.keys, counts.tokens)
            },
        }
        if recorder:
            # The model computes padding, too.
            rate = tokens_per_step / seconds
            mfu = model_flop_utilisation(rate, flops, layout_of(recipe).world_size, training.precision)
            line = recorder.step(
                step,
                sum(state["consumed"].values()),
                step * tokens_per_step,
                lr,
                grad_norm,
                counts,
                seconds,
                mfu,
                version.selection is not None,
                skipped,
                heldout,
                hash_of(inputs["measured"])[:8],
            )
            recent.append((sum(counts.tokens), seconds))
            if step % training.log_interval == 0 or step == steps:
                besides = time.monotonic() - started - (state["seconds"] - seconds_before)
                logger.info(console_line(line, steps, recent, besides / (step - first_step)))
                recent = []
        checkpoints.poll()
        scheduled = step % training.checkpoint_interval == 0
        if scheduled or step == steps or step in kept:
            _save(checkpoints, model, optimizer, state | {"scheduled": scheduled}, recorder)
            saved = step
        if number := agree(process.requested()):
            leave(number)
    checkpoints.wait()
    return state


def _judge(guard: Guard, losses: list[float], counts: Counts, grad_norm: float) -> Trouble:
    return Trouble(agree(assess(guard, losses, counts.mean_loss, grad_norm)))


def _save(checkpoints, model, optimizer, state: dict, recorder) -> None:
    if recorder:
        recorder.flush()  # what is saved is never told again
        state = state | {"metrics": recorder.told.hexdigest()}
    checkpoints.save(model, optimizer, state)


def _pass_over(
    step: int,
    first_sample: int,
    trouble: Trouble,
    what: str,
    recipe: Recipe,
    state,
    model,
    optimizer,
    checkpoints,
) -> tuple[dict, str]:
    """Skips or rolls back a step whose update was refused; returns the state and what the metrics call it."""
    guard, batch = recipe.training.guard, recipe.training.global_batch_size
    action = guard.on_nan if trouble is Trouble.NOT_FINITE else guard.on_spike
    done = len(state["skipped"])
    if action == "stop" or done == guard.max_skips:
        limit = f" after {done} skipped ones (guard.max_skips)" if action != "stop" else ""
        remedy = "Lower schedule.max_lr, look at the step's samples, or let training.guard skip it"
        raise PerdureError(
            f"{what}{limit}; nothing of this step was saved. {remedy}; running the same command again goes on from "
            "the last checkpoint"
        )
    skipped, first = state["skipped"], step - 1
    # What was consumed stays consumed: the plan's phases are not rolled back.
    kept = ("seconds", "device_seconds", "phases", "ratios", "perplexity", "perplexity_on", "consumed")
    later = {key: state[key] for key in kept if key in state}
    if action == "rollback":
        target = agreed(lambda: last_scheduled(checkpoints.directory))
        assert target is not None
        load_checkpoint(target, model, optimizer)
        state = checkpoint_state(target) | {"parallel": state["parallel"]}
        first = state["step"]
    entry = {
        "step": step,
        "reason": trouble.name.lower(),
        "first_sample": first_sample - (step - 1 - first) * batch,
        "num_samples": (step - first) * batch,
    }
    place = f"samples {entry['first_sample']} to {first_sample + batch - 1}"
    told = "skipped" if action == "skip" else f"rolled back to step {first}"
    logger.warning(f"{what}: {told}, without {place} ({done + 1} of at most {guard.max_skips})")
    return state | later | {"skipped": [*skipped, entry]}, told
