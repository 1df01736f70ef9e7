"""One rank of the trainer: `python -m perdure.pipeline.train.worker VERSION_DIRECTORY train|evaluate`.

Everything it needs stands in the version's directory: `recipe.yaml`, `inputs.json` and `plan/`. It goes on from the
last checkpoint if there is one. Afterwards it evaluates, exports to Hugging Face, and declares the version whole.
"""

import ctypes
import math
import signal
import sys
import time
import warnings
from pathlib import Path

from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import disk_errors, finish, read_json, write_json
from perdure.pipeline.plan import consumed_samples, num_samples, num_steps
from perdure.pipeline.recipe import LlamaModel, Recipe, load_recipe
from perdure.pipeline.shape import Shape, model_shape, num_parameters
from perdure.pipeline.train.schedule import learning_rate


def main(directory: Path, task: str) -> None:
    """Trains, evaluates and exports one version, or evaluates a finished one again; all ranks run this.

    Args:
        directory: The version's directory, prepared by `perdure.pipeline.run`.
        task: `train` or `evaluate`.
    """
    # Megatron warns of every fused package that is absent.
    warnings.filterwarnings("ignore", module="megatron")
    import torch.distributed as dist

    from perdure.pipeline.convert import huggingface, llama
    from perdure.pipeline.train import checkpoint, evaluate
    from perdure.pipeline.train.dataset import open_dataset
    from perdure.pipeline.train.device import initialise
    from perdure.pipeline.train.metrics import Recorder
    from perdure.pipeline.train.model import build_model, unwrap
    from perdure.pipeline.train.optimizer import make_optimizer
    from perdure.pipeline.train.passage import write_passage

    recipe, inputs = load_recipe(directory / "recipe.yaml"), read_json(directory / "inputs.json")
    version = recipe.versions[inputs["version"]]
    shape, vocab_size = model_shape(recipe), inputs["vocab_size"]
    data = {name: Path(path) for name, path in inputs["data"].items()}
    device = initialise()
    say = _say if dist.get_rank() == 0 else _silent
    if dist.get_world_size() != recipe.parallel.world_size:
        raise PerdureError(
            f"{dist.get_world_size()} ranks were started, but the recipe's layout needs "
            f"{recipe.parallel.world_size} (tensor x pipeline x data parallel)"
        )
    model = build_model(recipe, vocab_size, version.selection, device)

    def measure(file: str, step: int) -> dict[str, dict]:
        domains = evaluate.evaluate(model, recipe, data, device)
        if dist.get_rank() == 0:
            content = {
                "version": inputs["version"],
                "step": step,
                "measured": inputs["measured"],
                "domains": domains,
            }
            write_json(directory / file, content)
        return domains

    if task == "evaluate":
        if version.start.type == "init":
            _initial_weights(unwrap(model), recipe, shape, vocab_size, inputs, _silent)
            measure("eval_initial.json", 0)
        llama.load_weights(unwrap(model), shape, huggingface.weights_reader(directory / "hf"))
        say(_losses(measure("eval.json", num_steps(recipe, version))))
        dist.barrier()
        dist.destroy_process_group()
        return

    scores = {name: Path(path) for name, path in inputs["scores"].items()}
    dataset = open_dataset(directory / "plan", data, scores)
    checkpoints = checkpoint.finished_checkpoints(directory / "checkpoints")
    if checkpoints:
        optimizer = make_optimizer(recipe.training, model, recipe.parallel.distributed_optimizer)
        state = checkpoint.checkpoint_state(checkpoints[-1])
        _refuse_other_layout(recipe, state, checkpoints[-1])
        checkpoint.load_checkpoint(checkpoints[-1], model, optimizer)
        say(
            f"resume at step {state['step']}: restored weights, moments, schedule and place in the plan; reset nothing"
        )
    else:
        _initial_weights(unwrap(model), recipe, shape, vocab_size, inputs, say)
        optimizer = make_optimizer(recipe.training, model, recipe.parallel.distributed_optimizer)
        state = {
            "step": 0,
            "scored": 0,
            "selected": 0,
            "seconds": 0.0,
            "parallel": recipe.parallel.model_dump(),
        }
        if version.start.type == "init":
            measure("eval_initial.json", 0)

    recorder = Recorder(directory, state["step"], dataset.plan.keys) if dist.get_rank() == 0 else None
    state = _loop(directory, recipe, version, model, optimizer, dataset, state, device, recorder, say)

    domains = measure("eval.json", state["step"])
    tokenizer = Path(inputs["tokenizer"])
    if version.selection:
        write_passage(directory / "passage.json", model, recipe, dataset, tokenizer, device)
    huggingface.export(
        unwrap(model),
        shape,
        vocab_size,
        inputs["eos_id"],
        recipe.training.seq_length,
        tokenizer,
        _origin(recipe),
        directory / "hf",
    )
    if dist.get_rank() == 0:
        assert recorder is not None
        recorder.evaluation(state["step"], domains)
        recorder.close()
        _finish(directory, recipe, inputs, dataset.plan, state, huggingface.weights_hash(directory / "hf"))
        say(_losses(domains))
    dist.barrier()
    dist.destroy_process_group()


def _losses(domains: dict[str, dict]) -> str:
    losses = "  ".join(f"{name} {result['loss']:.4f}" for name, result in domains.items())
    return f"held-out loss (nats per token): {losses}"


def _loop(
    directory, recipe: Recipe, version, model, optimizer, dataset, state, device, recorder, say
) -> dict:
    """Steps until the budget is spent; returns the final state."""
    from perdure.pipeline.train.checkpoint import save_checkpoint
    from perdure.pipeline.train.metrics import competing, console_line, model_flop_utilisation
    from perdure.pipeline.train.optimizer import set_learning_rate
    from perdure.pipeline.train.step import train_step

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


def _initial_weights(model, recipe: Recipe, shape: Shape, vocab_size: int, inputs: dict, say) -> None:
    from perdure.pipeline.convert import huggingface, llama

    fresh = "reset: optimizer, schedule, plan"
    if inputs["initial_weights"] is not None:
        llama.load_weights(model, shape, huggingface.weights_reader(Path(inputs["initial_weights"])))
        start = (
            f"update of {inputs['parent']}" if inputs["parent"] else f"init from {inputs['initial_weights']}"
        )
        say(f"{start}: restored: weights; {fresh}")
    else:
        assert isinstance(recipe.model, LlamaModel)
        llama.load_weights(
            model, shape, llama.random_weights(shape, vocab_size, recipe.model.init_std, recipe.seed)
        )
        say(f"init: {num_parameters(shape, vocab_size):,} random weights (seed {recipe.seed}); {fresh}")


def _origin(recipe: Recipe) -> dict:
    """The entries of a Hugging Face model's `config.json` that its next versions keep."""
    if isinstance(recipe.model, LlamaModel):
        return {}
    config = read_json(recipe.model.path / "config.json")
    return {key: value for key, value in config.items() if key != "torch_dtype"}


def _refuse_other_layout(recipe: Recipe, state: dict, path: Path) -> None:
    from perdure.pipeline.manifest import differences

    if differing := differences(state["parallel"], recipe.parallel.model_dump()):
        raise PerdureError(
            f"{path}: written under another layout ({'; '.join(differing)}); go on with the same one"
        )


def _finish(directory: Path, recipe: Recipe, inputs: dict, plan, state: dict, weights_hash: str) -> None:
    version = recipe.versions[inputs["version"]]
    tokens = num_samples(recipe, version) * recipe.training.seq_length
    consumed: dict[str, int] = {}
    for key, samples in consumed_samples(plan, num_samples(recipe, version)).items():
        consumed[key] = samples * recipe.training.seq_length
    write_json(
        directory / "version.json",
        {
            "id": inputs["version"],
            "index": list(recipe.versions).index(inputs["version"]),
            "parent": inputs["parent"],
            "start": version.start.type,
            "status": "finished",
            "steps": state["step"],
            "tokens": tokens,
            "lineage_tokens": tokens + inputs["parent_lineage_tokens"],
            "schedule": version.schedule.model_dump(),
            "selection": version.selection.model_dump() if version.selection else None,
            "mixture": version.mixture.model_dump(),
            "consumed": consumed,
            "selection_counts": {"scored": state["scored"], "selected": state["selected"]},
            "tokens_per_second": tokens / state["seconds"],
            "parallel": recipe.parallel.model_dump(),
            "weights_hash": weights_hash,
            "parent_weights_hash": inputs["identity"]["initial_weights"],
            "data": inputs["identity"]["data"],
            "tokenizer_hash": inputs["identity"]["tokenizer_hash"],
            "seconds": state["seconds"],
        },
    )
    finish(directory, {"identity": inputs["identity"], "plan_hash": plan.hash})


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    pass


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def _follow_parent() -> None:
    """Dies with the process that started it, so that no stale rank writes beside a restarted run (Linux only)."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    _follow_parent()
    try:
        with disk_errors(Path(sys.argv[1])):
            main(Path(sys.argv[1]), sys.argv[2])
    except PerdureError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        _fail("this version of megatron-core needs triton: pip install triton, or megatron-core 0.16")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("the GPU's memory is full; lower training.micro_batch_size or raise parallel.tensor_parallel")
