"""What tests ask of a trainer's rank, run in a process of its own: `python ranks.py FUNCTION JSON_ARGUMENTS`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import REF_NATS_PER_UNIT
from perdure.pipeline.model import huggingface, weights
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.language_model import build_model, build_stage, replicated, unwrap
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.recipe import load_recipe
from perdure.pipeline.train.batch import collate, on_device
from perdure.pipeline.train.checkpoint import load_weights
from perdure.pipeline.train.saved import finished_checkpoints
from perdure.pipeline.train.streams import open_stream, read_sample


def _model(directory: str):
    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    device = initialise()
    return recipe, inputs, unwrap(build_model(recipe, inputs["vocab_size"], device))


def checkpoint_logits(directory: str, tokens: list) -> list:
    """Logits of the last checkpoint's weights."""
    _, _, model = _model(directory)
    load_weights(finished_checkpoints(Path(directory) / "checkpoints")[-1], model)
    tokens = torch.tensor(tokens)
    with torch.no_grad():
        hidden = super(type(model), model).forward(
            tokens, torch.arange(tokens.shape[1]).expand_as(tokens), None
        )
        return (hidden.transpose(0, 1) @ model.shared_embedding_or_output_weight().t()).tolist()


def heldout_losses(directory: str, budgets: list) -> list:
    """Held-out losses of a model that predicts something, over budgets of tokens: by each the summaries and documents of
    `a`."""
    from perdure.pipeline.train.evaluate import evaluate

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    device = initialise()
    model = build_model(recipe, inputs["vocab_size"], device)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    found = []
    for budget in budgets:
        own = recipe.model_copy(
            update={"evaluation": recipe.evaluation.model_copy(update={"max_tokens": budget})}
        )
        data = {"a": Path(inputs["data"]["a"])}
        domain = evaluate(model, own, ["a"], data, device)["a"]
        found.append((domain.summary, domain.documents.to_pydict()))
    return found


def train_poisoned(directory: str, broken: list, spikes: list) -> None:
    """Trains a version; in steps of `broken` the last rank's gradient is NaN, in steps of `spikes` the loss leaps."""
    from perdure.pipeline.core.errors import PerdureError
    from perdure.pipeline.train import trainer, worker

    def train_step(model, optimizer, objective, loader, training, first_sample, *rest):
        step = first_sample // training.global_batch_size + 1
        weight = unwrap(model).decoder.final_layernorm.weight
        before = weight.detach().clone()
        last = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
        factor = torch.nan if step in broken and last else 1.0
        hook = weight.register_hook(lambda gradient: gradient * factor)
        if step in spikes:
            weight.data.mul_(50)
        found = original(model, optimizer, objective, loader, training, first_sample, *rest)
        if step in spikes and found[2]:
            weight.data.copy_(before)
        hook.remove()
        return found

    original, trainer.train_step = trainer.train_step, train_step
    try:
        worker.main(Path(directory), "train")
    except PerdureError as error:
        sys.exit(str(error))


def initial_tensor(directory: str, name: str) -> list:
    """A tensor of the model as an update loads it, read back through the export."""
    recipe, inputs, model = _model(directory)
    shape = model_shape(recipe)
    weights.load_weights(model, shape, huggingface.weights_reader(Path(inputs["initial_weights"])))
    return dict(weights.stage_tensors(model, shape, inputs["vocab_size"]))[name].tolist()


def own_excess_loss(directory: str, data: str, scores: str) -> list:
    """Loss minus stored reference loss, for the tokens of documents that start inside their sample."""
    recipe, _, model = _model(directory)
    weights.load_weights(model, model_shape(recipe), huggingface.weights_reader(Path(directory) / "hf"))
    model.eval()
    import numpy as np

    from perdure.pipeline.core.shards import open_shard

    lengths = open_shard(Path(data) / "00000").lengths
    stream = open_stream(Path(data), Path(scores), np.arange(len(lengths)), np.cumsum(lengths))
    found = []
    for number in range(int(stream.ends[-1]) // 32):
        host = collate(range(number, number + 1), [read_sample(stream, number, 32)])
        batch = on_device(host, torch.device("cpu"))
        with torch.no_grad():
            output = model(batch.tokens, batch.positions, batch.labels, batch.documents, valid=batch.valid)
        whole = (batch.tokens == stream.eos_id).cumsum(1) > 0
        found += (output.nll - batch.reference * REF_NATS_PER_UNIT)[whole].tolist()
    return found


def embedding_gradients(directory: str) -> bool:
    """Whether an embedding's gradient, as Megatron looks rows up, is the same every time, on several threads."""
    initialise()
    generator = torch.Generator().manual_seed(0)
    weight, gradient = (
        torch.randn(2048, 128, generator=generator),
        torch.randn(2048, 128, generator=generator),
    )
    rows, found = torch.randint(0, 300, (2048,), generator=generator), []
    for _ in range(40):
        leaf = weight.clone().requires_grad_()
        leaf[rows].backward(gradient)
        found.append(leaf.grad)
    return torch.get_num_threads() == 2 and all(torch.equal(found[0], other) for other in found)


def slow_export(directory: str) -> int:
    """Tensors of an export whose first rank writes files for longer than collectives of its group may take."""
    import time
    from datetime import timedelta

    import megatron.core.parallel_state as mpu

    recipe, inputs, model = _model(directory)
    group, limit = mpu.get_tensor_model_parallel_group(), timedelta(seconds=1)
    torch.distributed.distributed_c10d._set_pg_timeout(limit, group)
    tensors = weights.stage_tensors(model, model_shape(recipe), inputs["vocab_size"])
    for number, _ in enumerate(tensors, start=1):
        if number == 2 and torch.distributed.get_rank() == 0:
            time.sleep(3 * limit.total_seconds())
    return number


def train_cases(directory: str, cases: list[dict], steps: int) -> list:
    """Trains the same weights on the same data once for each case, within one process; what `Counts` says of each step.

    A case may have a `scope`, a `z_loss`, `main_grad`: whether weight gradients go straight there, and `parallel`: other values
    of the layout's fields, for a model of its own. `kept` is how many bytes the backward pass of a step's first micro-batch
    finds, weights aside.
    """
    import megatron.core.parallel_state as mpu

    from perdure.pipeline.model.layout import layout_of
    from perdure.pipeline.model.optimizer import make_optimizer, set_learning_rate
    from perdure.pipeline.train.dataset import open_dataset
    from perdure.pipeline.train.loader import Loader
    from perdure.pipeline.train.objectives import objective_of
    from perdure.pipeline.train.objectives.lm import LanguageModeling
    from perdure.pipeline.train.step import train_step

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    device, objective = initialise(), objective_of(recipe.versions[inputs["version"]])
    selection = objective.selection
    wrapped = build_model(recipe, inputs["vocab_size"], device)
    shape = model_shape(recipe)
    paths = [{name: Path(path) for name, path in inputs[part].items()} for part in ("data", "scores")]
    dataset = open_dataset(Path(directory) / "plan", *paths)
    rank = mpu.get_data_parallel_rank()
    loader = Loader(dataset, layout_of(recipe), recipe.training, rank, device)
    results = []
    for case in cases:
        if "scope" in case:
            objective = LanguageModeling(selection.model_copy(update={"scope": case["scope"]}))
        if "parallel" in case:
            parallel = recipe.parallel.model_copy(update=case["parallel"])
            own = recipe.model_copy(update={"parallel": parallel})
            wrapped = replicated(build_stage(own, inputs["vocab_size"], device), parallel)
        model = unwrap(wrapped)
        if "z_loss" in case:
            model.loss_options["z_loss"] = case["z_loss"]
        for module in model.modules():
            if hasattr(module, "gradient_accumulation_fusion"):
                module.gradient_accumulation_fusion = case.get("main_grad", False)
        weights.load_weights(
            model, shape, weights.random_weights(shape, inputs["vocab_size"], 0.02, recipe.seed)
        )
        optimizer = make_optimizer(recipe.training, wrapped, recipe.parallel.distributed_optimizer)
        threshold, told = None, []
        for step in range(steps):
            set_learning_rate(optimizer, 0.01, 0.1)
            first = step * recipe.training.global_batch_size
            with kept_for_backward(model) as kept:
                own = objective.with_threshold(threshold)
                counts, grad_norm, _ = train_step(wrapped, optimizer, own, loader, recipe.training, first)
            threshold = counts.threshold
            told.append(
                {
                    "loss": sum(counts.loss) / sum(counts.tokens),
                    "grad_norm": grad_norm,
                    "stream": counts.stream,
                    "selection": counts.selection,
                    "selected": counts.selected_tokens,
                    "tokens": sum(counts.tokens),
                    "threshold": threshold,
                    "kept": kept[0],
                }
            )
        results.append(told)
    return results


@contextmanager
def kept_for_backward(model: torch.nn.Module) -> Iterator[list[int]]:
    """Gives the bytes that are kept when a backward pass begins inside, first those of the first; weights are not counted."""
    saved: list[torch.Tensor] = []
    found: list[int] = []
    weights_of = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        saved.append(tensor)
        return tensor

    def unpack(tensor):
        if saved:
            stored = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in saved}
            found.append(sum(size for place, size in stored.items() if place not in weights_of))
            saved.clear()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield found


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
