"""What tests ask of ranks on a pretended GPU: `python pretended_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import hashlib
import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import megatron.core.parallel_state as mpu
import numpy as np
import torch
import torch.distributed as dist
from gpu import machine, true_waits
from gpu.answering import answer
from gpu.host_memory import HostMemory
from gpu.ledger import LEDGER
from megatron.core.distributed import DistributedDataParallelConfig

from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.score import losses
from perdure.pipeline.model import language_model, weights
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.language_model import build_model, build_stage, gather_weights, replicated, unwrap
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.optimizer import make_optimizer, set_learning_rate
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.recipe import Recipe, load_recipe
from perdure.pipeline.train import counts, guard, process, step, trainer, versions, worker
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.loader import Loader
from perdure.pipeline.train.objectives import objective_of
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.session import open_session


def prepared(directory: str) -> tuple:
    """Recipe, wrapped model with random weights, optimizer, objective and loader of a version."""
    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    objective, device = objective_of(recipe.versions[inputs["version"]]), initialise()
    model, shape = build_model(recipe, inputs["vocab_size"], device), model_shape(recipe)
    # Large enough that losses are far from those of guessing.
    read = weights.random_weights(shape, inputs["vocab_size"], 0.1, recipe.seed)
    weights.load_weights(unwrap(model), shape, read)
    optimizer = make_optimizer(recipe.training, model, recipe.parallel.distributed_optimizer)
    paths = [{name: Path(path) for name, path in inputs[part].items()} for part in ("data", "scores")]
    dataset = open_dataset(Path(directory) / "plan", *paths, objective=objective)
    rank = mpu.get_data_parallel_rank()
    loader = Loader(dataset, layout_of(recipe), recipe.training, rank, device)
    return recipe, model, optimizer, objective, loader


def train(directory: str, pretended: bool, steps: int, computed: machine.Computed = "by torch") -> list:
    """Trains random weights, on the pretended GPU or on the CPU: what each step came to, and what was seen of it."""
    if pretended:
        machine.install(computed=computed)
    recipe, model, optimizer, objective, loader = prepared(directory)
    threshold, found = None, []
    for number in range(steps):
        set_learning_rate(optimizer, 0.01, 0.1)
        LEDGER.clear()
        own = objective.with_threshold(threshold)
        first = number * recipe.training.global_batch_size
        counted, grad_norm, _ = step.train_step(model, optimizer, own, loader, recipe.training, first)
        threshold = counted.threshold
        found.append(vars(counted) | {"grad_norm": grad_norm} | seen())
    return found


def trained_under(directory: str, cases: list[dict], steps: int, bucket_size: int | None) -> list:
    """Trains the same random weights once for each case on the pretended GPU: what steps came to, and a hash of the weights.

    Args:
        directory: The version.
        cases: Other values of fields of `parallel`, for a model of its own.
        steps: Of each.
        bucket_size: Parameters of a bucket under overlap; None: Megatron's choice, which is one for models so small.
    """
    machine.install()
    recipe, _, _, objective, loader = prepared(directory)
    inputs, device, shape = read_json(Path(directory) / "inputs.json"), loader.device, model_shape(recipe)
    language_model.DistributedDataParallelConfig = partial(
        DistributedDataParallelConfig, bucket_size=bucket_size
    )
    found = []
    for case in cases:
        own = with_parallel(recipe, case)
        model = replicated(build_stage(own, inputs["vocab_size"], device), own.parallel)
        weights.load_weights(
            unwrap(model), shape, weights.random_weights(shape, inputs["vocab_size"], 0.1, recipe.seed)
        )
        optimizer = make_optimizer(recipe.training, model, own.parallel.distributed_optimizer)
        told: list = []
        for number in range(steps):
            set_learning_rate(optimizer, 0.01, 0.1)
            first = number * recipe.training.global_batch_size
            counted, grad_norm, _ = step.train_step(
                model, optimizer, objective, loader, recipe.training, first
            )
            told.append([counted.loss, grad_norm])
        gather_weights(model)
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        found.append({"steps": told, "weights": digest.hexdigest(), "buckets": len(model.bucket_groups)})
    return found


def host_memory(directory: str) -> dict:
    """Bytes of the host that tensors take at most while a model of random weights is made, and of the model."""
    machine.install()
    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    device, shape = initialise(), model_shape(recipe)
    with HostMemory() as host:
        model = build_model(recipe, inputs["vocab_size"], device)
        built = host.peak
        weights.load_weights(
            unwrap(model), shape, weights.random_weights(shape, inputs["vocab_size"], 0.1, recipe.seed)
        )
    sizes = [parameter.nbytes for parameter in model.parameters()]
    return {"built": built, "peak": host.peak, "model": sum(sizes)}


def with_parallel(recipe: Recipe, changes: dict) -> Recipe:
    """A recipe with other values of fields of `parallel`."""
    return recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update=changes)})


def seen() -> dict:
    """What this rank's ledger has, as JSON."""
    return {name: type(value)(value) for name, value in vars(LEDGER).items()}


def whole(directory: str) -> dict:
    """A version from its start to its export, as a rank's process makes it; what was seen."""
    machine.install()
    process.start_rank()
    destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None
    worker.main(Path(directory), "train")
    dist.destroy_process_group = destroy
    return seen()


def score(model_dir: str, pretended: bool, precision: str, documents: list[list[int]]) -> list:
    """Losses and entropies of documents by a reference model, as the scoring stage computes them: [documents, 2, tokens]."""
    if pretended:
        machine.install()
    initialise()
    model = losses.load_model(Path(model_dir), precision, "cuda:0" if pretended else "cpu")
    arrays = [np.array(document) for document in documents]
    return [
        found.tolist() for found in losses.score_documents(model, arrays, eos_id=0, context=16, overlap=4)
    ]


class Enough(Exception):
    """The steps that were asked for are done."""


def loop(directory: str, fault: str = "", pretended: bool = True) -> dict:
    """What is seen of one turn of the training loop, the second: a step, its record, the question whether to stop.

    Args:
        directory: A version that neither saves nor evaluates after its second step.
        fault: `item`: the host asks for the loss of every micro-batch. `pageable`: no memory is pinned.
        pretended: Whether the GPU is; else waits alone are counted, on the device that is there.
    """
    (machine if pretended else true_waits).install()
    session = open_session(Path(directory), ("plan/plan.json",))
    made = versions.make_trainer(session)
    made.recorder = versions.make_recorder(made)
    ledgers, take = [], made.step

    def counted(number: int) -> trainer.StepResult:
        ledgers.append(seen())
        LEDGER.clear()
        if number == 3:
            raise Enough
        return take(number)

    made.step = counted  # type: ignore[method-assign]
    if fault == "pageable":
        torch.Tensor.pin_memory = lambda self: self  # type: ignore[method-assign]
    if fault == "item":
        reduce = LanguageModeling.reduce

        def reduced(self, output, batch, num_sources):
            loss, *others = reduce(self, output, batch, num_sources)
            loss.item()
            return loss, *others

        LanguageModeling.reduce = reduced  # type: ignore[method-assign]
    with suppress(Enough):
        made.train()
    return ledgers[-1]


def record(directory: str, answers: str, left_out: int | None) -> None:
    """Writes this rank's calls from the model's making to the end of its first step, on the fake process group.

    Args:
        directory: The version.
        answers: Where every rank writes a file named by its number.
        left_out: The rank that leaves out the sum of what was counted.
    """
    machine.install(real=False)
    recipe, model, optimizer, objective, loader = prepared(directory)
    set_learning_rate(optimizer, 0.01, 0.1)
    rank = dist.get_rank()
    if rank == left_out:
        counts.add_replicas = lambda sums: None
    step.train_step(model, optimizer, objective, loader, recipe.training, 0)
    guard.agree(0)
    (Path(answers) / f"{rank}.json").write_text(json.dumps(LEDGER.calls))


def main() -> None:
    """Calls the function that the command line names."""
    answer(globals())


if __name__ == "__main__":
    main()
