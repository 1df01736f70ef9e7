"""Where the host waits for a pretended GPU that trains nothing: `python waiting_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
from pathlib import Path

from gpu import machine
from gpu.ledger import LEDGER
from gpu.pretended_ranks import prepared, seen

from perdure.pipeline.core.files import read_json
from perdure.pipeline.model import collectives
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


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    own = globals()[function](*json.loads(arguments))
    Path(answer).write_text(json.dumps(collectives.from_all(own)))
