"""The steps of one version, from where it stands to the end of its budget."""

import math
import time

from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import read_json
from perdure.pipeline.plan import num_steps
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.shape import Shape, model_shape, num_parameters
from perdure.pipeline.train.checkpoint import save_checkpoint
from perdure.pipeline.train.metrics import competing, console_line, model_flop_utilisation
from perdure.pipeline.train.optimizer import set_learning_rate
from perdure.pipeline.train.schedule import learning_rate
from perdure.pipeline.train.step import train_step


def run_steps(
    directory, recipe: Recipe, version, model, optimizer, dataset, state, device, recorder, say
) -> dict:
    """Steps until the budget is spent; returns the final state."""
    training, steps = recipe.training, num_steps(recipe, version)
    tokens_per_step = training.seq_length * training.global_batch_size
    flops = flops_per_token(
        model_shape(recipe), read_json(directory / "inputs.json")["vocab_size"], training.seq_length
    )
    first_step, started = state["step"], time.monotonic()
    for step in range(first_step + 1, steps + 1):
        begun = time.perf_counter()
        lr = learning_rate(version.schedule, step, steps)
        set_learning_rate(optimizer, lr, training.weight_decay)
        counts, grad_norm = train_step(
            model, optimizer, dataset, recipe, (step - 1) * training.global_batch_size, device
        )
        seconds = time.perf_counter() - begun
        if not (math.isfinite(sum(counts.loss)) and math.isfinite(grad_norm)):
            raise PerdureError(
                f"version {directory.name}: loss {sum(counts.loss) / sum(counts.tokens)} and gradient norm {grad_norm} at step "
                f"{step}; nothing of this step was saved. Lower schedule.max_lr or look at the step's samples; running "
                "the same command again goes on from the last checkpoint"
            )
        state = state | {
            "step": step,
            "scored": state["scored"] + round(competing(dataset.plan.keys, counts)[0]),
            "selected": state["selected"] + round(counts.selected_tokens),
            "seconds": state["seconds"] + seconds,
        }
        if recorder:
            rate = tokens_per_step / seconds
            mfu = model_flop_utilisation(rate, flops, recipe.parallel.world_size)
            line = recorder.step(
                step, step * tokens_per_step, lr, grad_norm, counts, rate, mfu, version.selection is not None
            )
            if step % training.log_interval == 0 or step == steps:
                say(console_line(line, steps, started, first_step))
        if step % training.checkpoint_interval == 0 or step == steps:
            save_checkpoint(directory / "checkpoints", model, optimizer, state)
    return state


def flops_per_token(shape: Shape, vocab_size: int, seq_length: int) -> float:
    """Forward and backward FLOPs per token: 6 per matrix weight, and causal attention (Chowdhery et al. 2022, app. B)."""
    matrices = num_parameters(shape, vocab_size) - (
        0 if shape.tie_embeddings else vocab_size * shape.hidden_size
    )
    return 6 * matrices + 6 * shape.num_layers * shape.num_attention_heads * shape.head_dim * seq_length
