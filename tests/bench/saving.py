"""What a save costs training, in a process of its own: `python saving.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))
from turns import in_turns


def save_stalls(directory: str, kinds: dict, turns: int) -> dict:
    """By kind of save: seconds that training waits for it, of the update that follows, until the checkpoint is whole.

    The update writes to every weight and moment; after a fork it pays for the copies of the memory it changes. A kind
    is whether it is asynchronous, and whether files are hashed. The first save of all makes files and caches, and does not
    count.
    """
    from perdure.pipeline.core.files import read_json
    from perdure.pipeline.model.device import initialise
    from perdure.pipeline.model.language_model import build_model
    from perdure.pipeline.model.optimizer import make_optimizer
    from perdure.pipeline.recipe import load_recipe
    from perdure.pipeline.train import fence, writers
    from perdure.pipeline.train.checkpoint import Checkpoints
    from perdure.pipeline.train.state import TrainState

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    model = build_model(recipe, inputs["vocab_size"], initialise())
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    optimizer = make_optimizer(recipe.training, model, False)
    model.zero_grad_buffer()
    attempt, step = fence.take(Path(directory)), 0
    optimizer.step()

    def save(asynchronous: bool, hashed: bool) -> list[float]:
        nonlocal step
        step += 1
        writer = checkpoints[asynchronous]
        with nullcontext() if hashed else patch.object(writers, "hash_file", lambda path: ""):
            begun = time.perf_counter()
            writer.save(model, optimizer, TrainState(step=step, scheduled=True))
            blocked = time.perf_counter() - begun
            before = time.perf_counter()
            optimizer.step()
            update = time.perf_counter() - before
            while writer.queue.get_num_unfinalized_calls():
                time.sleep(0.05)
                before = time.perf_counter()
                writer.poll()
                blocked += time.perf_counter() - before
            return [blocked, update, time.perf_counter() - begun]

    checkpoints = {kind: Checkpoints(Path(directory), attempt, kind) for kind in (False, True)}
    save(False, True)
    return in_turns({name: partial(save, *kind) for name, kind in kinds.items()}, turns)


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
