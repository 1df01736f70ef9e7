"""What tests ask of many short-lived ranks: `python saves.py FUNCTION JSON_ARGUMENTS ANSWER`.

Everything heavy is imported once; each rank is a fork. The script itself is light, because helpers of a rank start it anew.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

CHANGES = 60
"""Of files, within which a rank is killed: about three saves."""


def killed_while_saving(directory: str, kills: int) -> dict:
    """Kills a rank that saves without pause, `kills` times, each before a change of its files that is drawn: by the rank
    itself or by the fork that writes for it. Each next rank checks what it left.

    Returns:
        The newest checkpoint's step after every kill, and how many left something half-written.
    """

    version, rng = Path(directory), random.Random(0)
    checkpoints = version / "checkpoints"
    steps, partial = [], 0
    for number in range(kills + 1):
        last = rng.randrange(1, CHANGES) if number < kills else 0
        if (rank := os.fork()) == 0:
            _exit_with(_save_forever, version, last)
        status = os.waitpid(rank, 0)[1]
        assert status == (signal.SIGKILL if last else 0), f"rank {number} ended with status {status}"
        steps.append(max((int(path.name[5:]) for path in checkpoints.glob("step_*")), default=0))
        partial += bool(list(checkpoints.glob(".step_*.*")))
    return {"steps": steps, "partial": partial}


def _kill_before(change: int, below: Path) -> None:
    """Has this process killed before it, or a fork of it, changes a file below a directory for so manieth a time."""
    rank, changes = os.getpid(), 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal changes
        opened = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (opened or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")) and str(below) in str(
            arguments[0]
        ):
            changes += 1
            if changes == change:
                os.kill(rank, signal.SIGKILL)

    sys.addaudithook(watch)


def _save_forever(version: Path, last: int) -> None:
    """Checks the newest checkpoint, and saves until it is killed, before change `last`; 0 only checks."""
    import torch

    from perdure.pipeline.core.files import read_json
    from perdure.pipeline.model.device import initialise
    from perdure.pipeline.model.language_model import build_model
    from perdure.pipeline.model.optimizer import make_optimizer, portable_state
    from perdure.pipeline.recipe import load_recipe
    from perdure.pipeline.train import fence, process
    from perdure.pipeline.train.checkpoint import Checkpoints, load_checkpoint
    from perdure.pipeline.train.saved import checkpoint_state, finished_checkpoints
    from perdure.pipeline.train.state import TrainState

    process.start_rank()
    recipe = load_recipe(version / "recipe.yaml")
    device = initialise()
    model = build_model(recipe, read_json(version / "inputs.json")["vocab_size"], device)
    optimizer = make_optimizer(recipe.training, model, False)
    portable_state(optimizer, model.module.sharded_state_dict())  # makes the moments
    moments = [
        tensor
        for entry in optimizer.chained_optimizers[0].optimizer.state.values()
        for tensor in entry.values()
    ]
    tensors = [*(parameter.data for parameter in model.parameters()), *moments]
    step = 0
    if found := finished_checkpoints(version / "checkpoints"):
        load_checkpoint(found[-1], model, optimizer)
        optimizer_state = optimizer.chained_optimizers[0].optimizer.state
        moments = [tensor for entry in optimizer_state.values() for tensor in entry.values()]
        tensors = [*(parameter.data for parameter in model.parameters()), *moments]
        step = checkpoint_state(found[-1]).step
        assert found[-1].name == f"step_{step:06d}"
        assert all(bool((tensor == step).all()) for tensor in tensors)
    if not last:
        return
    _kill_before(last, version / "checkpoints")
    writer = Checkpoints(version, fence.take(version), asynchronous=True)
    while True:
        step += 1
        for tensor in tensors:
            tensor.fill_(step)
        writer.save(model, optimizer, TrainState(step=step, scheduled=True))
        while writer.queue.get_num_unfinalized_calls():
            for tensor in tensors:  # training goes on meanwhile
                tensor.fill_(torch.nan)
            writer.poll()


def _exit_with(function, *arguments) -> None:
    status = 1
    try:
        function(*arguments)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))
