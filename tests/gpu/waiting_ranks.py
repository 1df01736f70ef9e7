"""Where the host waits for a pretended GPU that trains nothing: `python waiting_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

from pathlib import Path

import numpy as np
from gpu import machine
from gpu.answering import answer
from gpu.ledger import LEDGER
from gpu.pretended_ranks import prepared, seen

from perdure.pipeline.core.files import read_json
from perdure.pipeline.data.score import losses
from perdure.pipeline.model.device import initialise
from perdure.pipeline.train import evaluate, forward


def evaluation(directory: str) -> list:
    """Waits of two measurements of the same domain, and how many micro-batches they took."""
    machine.install()
    recipe, model, *_, loader = prepared(directory)
    inputs, found, sent = read_json(Path(directory) / "inputs.json"), [], forward.on_device
    data = {name: Path(path) for name, path in inputs["data"].items()}
    batches = []

    def counted(host, device):
        batches.append(host.indices)
        return sent(host, device)

    forward.on_device = counted
    for tokens in (40, 40, 20):  # the first fills caches; of the fewest tokens there are the most pieces
        measured = recipe.evaluation.model_copy(update={"max_tokens": tokens})
        batches.clear()
        LEDGER.clear()
        own = recipe.model_copy(update={"evaluation": measured})
        assert evaluate.evaluate(model, own, ["a"], data, loader.device)
        found.append((seen()["waits"], len(batches)))
    return found[1:]


def scoring(model_dir: str) -> list:
    """Waits of two calls of the reference model, for one and for three forward passes of four windows each."""
    machine.install()
    initialise()
    model, found = losses.load_model(Path(model_dir), "bf16", "cuda:0"), []
    for passes in (1, 1, 3):
        windows = [losses.Window(np.arange(16), np.arange(1, 17))] * 4 * passes
        LEDGER.clear()
        losses.token_losses(model, windows, 16, batch_tokens=64)
        found.append((seen()["waits"], passes))
    return found[1:]


def main() -> None:
    """Calls the function that the command line names."""
    answer(globals())


if __name__ == "__main__":
    main()
