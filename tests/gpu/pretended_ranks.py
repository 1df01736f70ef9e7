"""What tests ask of ranks on a pretended GPU: `python pretended_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import megatron.core.parallel_state as mpu
import numpy as np
import torch
import torch.distributed as dist
from gpu import machine, true_waits
from gpu.host_memory import HostMemory
from gpu.ledger import LEDGER
from megatron.core.distributed import DistributedDataParallelConfig
from triton.runtime.interpreter import InterpreterBuilder

from perdure.kernels import linear_nll, rotary, selective_linear_cross_entropy, swiglu, tiles, triton_loss
from perdure.kernels.inputs import LossInputs, WeightGradient
from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.score import losses
from perdure.pipeline.model import collectives, language_model, weights
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


def train(directory: str, pretended: bool, steps: int) -> list:
    """Trains random weights, on the pretended GPU or on the CPU: what each step came to, and what was seen of it."""
    if pretended:
        machine.install()
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


def launches() -> list:
    """What the product launches for models whose sizes divide as large ones' do: by capability, kernel, arguments and purpose."""
    machine.install(interpreted=False)
    initialise()
    found: list[dict] = []
    for capability in ((8, 0), (9, 0), (10, 0), (12, 0)):
        torch.cuda.get_device_capability = lambda *_, own=capability: own  # type: ignore[assignment]
        bf16, hopper = torch.bfloat16, capability == (9, 0)
        for name, dtype in (("bf16", bf16), ("fp32", torch.float32)) if hopper else (("bf16", bf16),):
            with launched(found, f"train {name}"):
                lose(dtype)
            with launched(found, f"train {name}, teacher"):
                lose(dtype, teacher=True)
            if capability == (12, 0):  # whether its shared memory suffices
                continue
            with launched(found, f"train {name}, kept"):
                lose(dtype, cache=1 << 20)
            with launched(found, f"score {name}"):
                linear_nll(*head(dtype), vocab_size=4096, entropy=True)
            if hopper:
                launched_more(found, name, dtype)
            with launched(found, f"layer {name}"):
                x = torch.zeros(128, 2, 32, 128, dtype=dtype, device="cuda", requires_grad=True)
                angle = torch.zeros(128, 1, 1, 64, dtype=dtype, device="cuda")
                rotary(x, angle, angle).sum().backward()
                x = torch.zeros(128, 2, 2048, dtype=dtype, device="cuda", requires_grad=True)
                swiglu(x).sum().backward()
    return found


def launched_more(found: list[dict], name: str, dtype: torch.dtype) -> None:
    """Adds variants that differ little, for one capability."""
    with launched(found, f"train {name}, z_loss"):
        lose(dtype, z_loss=1e-4)
    with launched(found, f"train {name}, odd vocabulary"):
        lose(dtype, vocab_size=4093)
    if dtype == torch.bfloat16:  # float32 has no descriptors anyway
        with launched(found, f"train {name}, odd width"):
            lose(dtype, width=516)
    with launched(found, f"score {name}, softcap"):
        linear_nll(*head(dtype), vocab_size=4096, softcap=30.0, entropy=True)


def large_launches(group: int | None) -> list:
    """What is launched for 8,192 tokens and the output layer of Llama-3-8B; dense products are left out.

    Args:
        group: Blocks of rows that share columns; None: as many as the product has.
    """
    machine.install(interpreted=False)
    initialise()
    tiles.GROUP = group or tiles.GROUP
    both_kernels(torch.empty, 8192, 128256, 4096)
    return LEDGER.launches


def loaded_tiles() -> list:
    """Launches over 5 blocks of rows, 2 of which share columns, and where each of their tiles begins: row and column."""
    machine.install()
    initialise()
    tiles.GROUP, triton_loss.PROGRAMS = 2, 10
    loads: list[tuple[int, int]] = []
    load = InterpreterBuilder.create_descriptor_load

    def noted(self, descriptor, indices, *others):
        row, depth = (int(index.data.item()) for index in indices)
        if depth == 0:
            loads.append(row)
        return load(self, descriptor, indices, *others)

    InterpreterBuilder.create_descriptor_load = noted
    both_kernels(torch.zeros, 600, 1300, 128)
    return [LEDGER.launches, list(zip(loads[::2], loads[1::2], strict=True))]


def both_kernels(make: Callable[..., torch.Tensor], tokens: int, vocab_size: int, width: int) -> None:
    """K1 over some tokens, and K2, without the products that cuBLAS makes."""
    triton_loss.add_matmul = lambda *_: None
    rows, weight = (make(x, width, dtype=torch.bfloat16, device="cuda") for x in (tokens, vocab_size))
    labels = torch.zeros(tokens, dtype=torch.int64, device="cuda")
    inputs, numbers = LossInputs(rows, weight, labels, vocab_size, None), torch.zeros(tokens, device="cuda")
    triton_loss.statistics(inputs)
    triton_loss.gradients(inputs, numbers, numbers, numbers, None, WeightGradient(None, False))


def head(dtype: torch.dtype, width: int = 512) -> tuple[torch.Tensor, ...]:
    """Hidden states, an output weight and labels."""
    hidden = torch.zeros(2, 256, width, dtype=dtype, device="cuda", requires_grad=True)
    weight = torch.zeros(4096, width, dtype=dtype, device="cuda", requires_grad=True)
    return hidden, weight, torch.zeros(2, 256, dtype=torch.int64, device="cuda")


def lose(dtype: torch.dtype, width: int = 512, teacher: bool = False, **options) -> None:
    """The loss of 300 selected tokens, forward and backward, perhaps with the KL of all tokens to a frozen teacher."""
    places = torch.arange(512, device="cuda").view(2, 256)
    chosen = {"valid": places >= 0, "selected": places < 300}
    if teacher:
        hidden, weight, _ = head(dtype)
        chosen |= {"teacher_hidden": hidden.detach(), "teacher_weight": weight.detach()}
        chosen["kl_weight"] = torch.ones(2, 256, device="cuda")
    result = selective_linear_cross_entropy(*head(dtype, width), **{"vocab_size": 4096} | chosen | options)
    (result.loss * result.selected).sum().backward()


@contextmanager
def launched(found: list[dict], purpose: str) -> Iterator[None]:
    """Adds what is launched inside to what was found, unless the same was launched before."""
    LEDGER.clear()
    yield
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    same = [other for other in found if other["capability"] == capability]
    for launch in LEDGER.launches:
        if all(launch != {key: other[key] for key in launch} for other in same):
            found.append(launch | {"purpose": purpose, "capability": capability})


def main() -> None:
    """Calls the function that the command line names; the answer is a list by rank."""
    function, arguments, answer = sys.argv[1:]
    own = globals()[function](*json.loads(arguments))
    Path(answer).write_text(json.dumps(collectives.from_all(own)))


if __name__ == "__main__":
    main()
