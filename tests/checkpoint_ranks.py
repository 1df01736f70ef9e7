"""What tests of checkpoints ask of a trainer's rank: `python checkpoint_ranks.py FUNCTION JSON_ARGUMENTS`."""

import json
import sys
from pathlib import Path

import torch
from megatron.core import dist_checkpointing

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.model.choices import choose
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.language_model import build_model
from perdure.pipeline.recipe import load_recipe
from perdure.pipeline.train.saved import finished_checkpoints
from perdure.pipeline.train.state import TrainState


class Keeping:
    """A step hook that keeps what the weights were."""

    companions = ("parent",)


def copy_checkpoint(directory: str, target: str, companion: str = "none") -> None:
    """Loads a version's last checkpoint under the layout of another one, and saves it there.

    `companion`: the hook `Keeping` is installed `before` loading, `after` it, or not at all (`none`).
    """
    from perdure.pipeline.model.optimizer import make_optimizer
    from perdure.pipeline.model.step_hooks import install_hooks
    from perdure.pipeline.train import fence
    from perdure.pipeline.train.checkpoint import Checkpoints, load_checkpoint
    from perdure.pipeline.train.saved import checkpoint_state

    recipe, inputs = load_recipe(Path(target) / "recipe.yaml"), read_json(Path(target) / "inputs.json")
    device = initialise()
    model = build_model(recipe, inputs["vocab_size"], device)
    optimizer = make_optimizer(recipe.training, model, recipe.parallel.distributed_optimizer)
    source = finished_checkpoints(Path(directory) / "checkpoints")[-1]
    if companion == "before":
        install_hooks(optimizer, [Keeping()])
    load_checkpoint(source, model, optimizer)
    if companion == "after":
        install_hooks(optimizer, [Keeping()])
    if torch.distributed.get_rank() == 0:
        fence.take(Path(target))
    writer = Checkpoints(Path(target), 1, asynchronous=False)
    writer.save(model, optimizer, checkpoint_state(source))


def checkpoint_tensors(directory: str) -> dict:
    """Hash and shape of every tensor of the last checkpoint, and its state."""
    import hashlib

    initialise()
    path = finished_checkpoints(Path(directory) / "checkpoints")[-1]
    tensors = dist_checkpointing.load_plain_tensors(str(path))
    found = {
        name: [list(tensor.shape), hashlib.sha256(tensor.float().numpy().tobytes()).hexdigest()]
        for name, tensor in tensors.items()
    }
    return {"tensors": found, "state": read_json(path / "state.json")}


def squared_distance(checkpoint: str) -> float:
    """Sum over all fp32 weights of the squared distance to the companion `parent`."""
    initialise()
    tensors = dist_checkpointing.load_plain_tensors(checkpoint)
    kept = "optimizer.state.parent."
    pairs = [(tensors[name.removeprefix(kept)], tensors[name]) for name in tensors if name.startswith(kept)]
    return sum(float(((now - before).double() ** 2).sum()) for now, before in pairs)


def killed_writer(directory: str) -> list:
    """What every rank says when the last one's writer is killed, as the system does when memory runs out."""
    import time

    import psutil
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    from perdure.pipeline.core.errors import PerdureError
    from perdure.pipeline.model.optimizer import make_optimizer
    from perdure.pipeline.train import fence
    from perdure.pipeline.train.checkpoint import Checkpoints

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    model = build_model(recipe, inputs["vocab_size"], initialise())
    optimizer = make_optimizer(recipe.training, model, False)
    writer = Checkpoints(Path(directory), fence.take_together(Path(directory)), asynchronous=True)
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if rank == ranks - 1:
        FileSystemWriterAsync.write_preloaded_data = staticmethod(lambda *_args, **_kwargs: time.sleep(600))
    writer.save(model, optimizer, TrainState(step=1, scheduled=True))
    if rank == ranks - 1:
        own = psutil.Process()
        (fork,) = [child for child in own.children(recursive=True) if child.cmdline() == own.cmdline()]
        fork.kill()
    said = ["nothing"] * ranks
    try:
        writer.wait()
    except PerdureError as error:
        torch.distributed.all_gather_object(said, str(error))
    return said


def saved_shares(directory: str) -> list:
    """By rank: bytes of the optimizer's states that it saves, of its own share, and whether they are saved without a copy."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values

    from perdure.pipeline.model import collectives
    from perdure.pipeline.model.optimizer import make_optimizer, portable_state
    from perdure.pipeline.train.checkpoint import sharded_weights

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    model = build_model(recipe, inputs["vocab_size"], initialise())
    optimizer = make_optimizer(recipe.training, model, True)
    pieces = list(nested_values(portable_state(optimizer, sharded_weights(model))))
    inner = optimizer.chained_optimizers[0].optimizer
    own = [tensor for states in inner.state.values() for tensor in states.values()]
    own += [param for group in inner.param_groups for param in group["params"]]
    places = {tensor.untyped_storage().data_ptr() for tensor in own}
    in_place = all(piece.data.untyped_storage().data_ptr() in places for piece in pieces)
    saved = sum(piece.data.nbytes for piece in pieces)
    return collectives.from_all([saved, sum(tensor.nbytes for tensor in own), in_place])


def slow_writer(directory: str) -> list:
    """Checkpoints that are whole when the last rank's files, in two saves, wait for what rank 0 does while it waits."""
    import time

    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    from perdure.pipeline.model import collectives
    from perdure.pipeline.model.optimizer import make_optimizer
    from perdure.pipeline.train import checkpoint, fence

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    model = build_model(recipe, inputs["vocab_size"], initialise())
    optimizer = make_optimizer(recipe.training, model, False)
    attempt, seen = fence.take_together(Path(directory)), Path(directory) / "seen"
    write, wait, sleep = FileSystemWriterAsync.write_preloaded_data, collectives.barrier, time.sleep

    def write_late(*arguments, **options):
        while not seen.exists():
            sleep(0.01)
        return write(*arguments, **options)

    if torch.distributed.get_rank():
        FileSystemWriterAsync.write_preloaded_data = staticmethod(write_late)
    for step, asynchronous in enumerate((True, False), start=1):
        writer = checkpoint.Checkpoints(Path(directory), attempt, asynchronous)
        if torch.distributed.get_rank() == 0:
            seen.unlink(missing_ok=True)
            if asynchronous:  # it looks again and again
                checkpoint.time.sleep = lambda seconds: seen.touch()
            else:  # the last of its waits that may be long
                collectives.barrier = lambda: (seen.touch(), wait())
        wait()
        writer.save(model, optimizer, TrainState(step=step, scheduled=True))
        writer.wait()
        time.sleep, collectives.barrier = sleep, wait
    assert collectives.group()._get_backend(torch.device("cpu")).options._timeout == collectives.FILE_TIME
    return [path.name for path in finished_checkpoints(Path(directory) / "checkpoints")]


def hanging_writers(directory: str, number: int) -> list:
    """Saves while the first `number` forks hang before they begin; the steps of the whole checkpoints, or what is said."""
    import os
    import time

    from perdure.pipeline.core.errors import PerdureError
    from perdure.pipeline.model.optimizer import make_optimizer
    from perdure.pipeline.train import checkpoint, fence, writers

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    model = build_model(recipe, inputs["vocab_size"], initialise())
    writer = checkpoint.Checkpoints(Path(directory), fence.take_together(Path(directory)), asynchronous=True)
    writers.BEGIN_SECONDS, forks = 0.5, iter(range(1000))
    pending: list[int] = []
    os.register_at_fork(
        before=lambda: pending.append(next(forks)),
        after_in_child=lambda: time.sleep(600 if pending[-1] < number else 0),
    )
    try:
        writer.save(model, make_optimizer(recipe.training, model, False), TrainState(step=1, scheduled=True))
        writer.wait()
    except PerdureError as error:
        return [str(error)]
    return [path.name for path in finished_checkpoints(Path(directory) / "checkpoints")]


def begun_and_rolled_back(directory: str) -> list:
    """Steps that each rank begins at and rolls back to, while the last one does not see the newest checkpoint yet."""
    from types import SimpleNamespace

    from perdure.pipeline.model import collectives
    from perdure.pipeline.train import start, trainer
    from perdure.pipeline.train.dataset import open_dataset
    from perdure.pipeline.train.guard import StepVerdict
    from perdure.pipeline.train.objectives.lm import LanguageModeling
    from perdure.pipeline.train.session import Session

    paths = VersionPaths(Path(directory))
    recipe, inputs = load_recipe(paths.recipe), read_inputs(paths)
    device = initialise()
    model = build_model(recipe, inputs["vocab_size"], device)
    if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
        start.finished_checkpoints = lambda path: finished_checkpoints(path)[:-1]
        trainer.last_scheduled = lambda path: finished_checkpoints(path)[0]
    choices = choose(recipe, device)
    optimizer, state = start.begin(Path(directory), recipe, inputs, model, choices)
    session = Session(paths, recipe, inputs, device, 1, choices, model, [])
    dataset = open_dataset(paths.plan, session.data, {})
    place = SimpleNamespace(directory=paths.checkpoints)
    own = trainer.Trainer(session, optimizer, dataset, None, LanguageModeling(), state, place, None)
    own.pass_over(13, StepVerdict.NOT_FINITE, "")
    return collectives.from_all([state.step, own.state.step])


def differing_views(directory: str) -> list:
    """What each rank says when the last one does not see a file, reads another content, or sees the file late."""
    import threading

    from perdure.pipeline.core.errors import PerdureError
    from perdure.pipeline.model import collectives

    initialise()
    late, rank = Path(directory) / "late", torch.distributed.get_rank()
    if rank == 0:
        threading.Timer(0.3, late.touch).start()
    collectives.await_file(late)
    said = []
    try:
        collectives.require_same("state.json", f"step {5 - rank}")
    except PerdureError as error:
        said.append(str(error))
    collectives.VISIBLE_SECONDS = 0.1
    try:
        collectives.await_file(Path(directory) / "never")
    except PerdureError as error:
        said.append(str(error))
    assert collectives.from_first(lambda: rank) == 0
    return said


def dead_rank(directory: str) -> str:
    """What rank 0 hears, in the wait that may last for hours, of a rank that dies."""
    import os

    from perdure.pipeline.model import collectives

    initialise()
    collectives.barrier()
    if torch.distributed.get_rank() == 1:
        os._exit(0)
    try:
        collectives.barrier()
    except RuntimeError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
