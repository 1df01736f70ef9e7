"""What tests ask of a model with adapters, on ranks of their own: `python adapter_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
from pathlib import Path

import torch
from step_ranks import prepared

from perdure.pipeline.model import collectives
from perdure.pipeline.model.adapter_files import write_adapter
from perdure.pipeline.model.adapters import adapted_linears, merge_adapters
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.optimizer import set_learning_rate
from perdure.pipeline.model.orthogonal import keep_orthogonal
from perdure.pipeline.train.forward import token_losses
from perdure.pipeline.train.step import train_step


def trained(directory: str, steps: int):
    """What `step_ranks.prepared` returns, after steps of training."""
    recipe, model, optimizer, objective, loader = found = prepared(directory)
    for step in range(steps):
        set_learning_rate(optimizer, 0.01, 0.1)
        first = step * recipe.training.global_batch_size
        train_step(model, optimizer, objective, loader, recipe.training, first)
    return found


def frozen(directory: str) -> dict:
    """After two steps: what has a gradient buffer, how many numbers have moments, and which weights are what they were."""
    _, model, optimizer, _, _ = found = prepared(directory)
    before = {name: value.detach().clone() for name, value in unwrap(model).named_parameters()}
    recipe, _, _, objective, loader = found
    for step in range(2):
        set_learning_rate(optimizer, 0.01, 0.1)
        train_step(model, optimizer, objective, loader, recipe.training, step * 8)
    after = dict(unwrap(model).named_parameters())
    states = optimizer.chained_optimizers[0].optimizer.state
    return {
        "buffers": [name for name, value in after.items() if getattr(value, "main_grad", None) is not None],
        "same": [name for name, value in before.items() if torch.equal(value, after[name])],
        "buffer_numbers": sum(buffer.numel_unpadded for buffer in model.buffers),
        "moments": sum(state["exp_avg"].numel() for state in states.values()),
    }


def merged_beside_running(directory: str, steps: int) -> dict:
    """Losses of the first batch by the running adapter and after it is merged, of the last stage's ranks.

    And the largest share of a weight's numbers that are not the fp64 sum of base and product, rounded once.
    """
    recipe, model, _, _, loader = trained(directory, steps)
    with torch.no_grad():
        found = [token_losses(model, recipe.training, list(loader.batches(0)))]
        sums = {}
        for linear in adapted_linears(unwrap(model)):
            down, up = linear.factors()
            sums[linear.weight] = linear.weight.double() + up.double() @ down.double() * linear.joint.scale
        merge_adapters(unwrap(model))
        unequal = [
            (weight != total.to(weight.dtype)).double().mean().item() for weight, total in sums.items()
        ]
        found.append(token_losses(model, recipe.training, list(loader.batches(0))))
    running, merged = (torch.cat([part.flatten() for part in losses]) for losses in found)
    left = [name for name, _ in unwrap(model).named_parameters() if "lora" in name]
    gap, mean = (running - merged).abs().max().item(), running.mean().item()
    return {"gap": gap, "mean": mean, "left": left, "unequal": max(unequal)}


def penalised(directory: str, adapter: str, weight: float, to: str) -> float:
    """Writes, as adapters, what gradients a step gives A and B: without a penalty, with one, and the A that it was of.

    Returns the penalty.
    """
    recipe, model, optimizer, objective, loader = prepared(directory)
    network, version = unwrap(model), next(iter(recipe.versions.values()))
    assert version.adapter is not None
    for name in ("plain", "penalised"):
        if name == "penalised":
            penalty = keep_orthogonal(network, [Path(adapter)], weight)
        set_learning_rate(optimizer, 0.0, 0.0)
        train_step(model, optimizer, objective, loader, recipe.training, 0)
        kept = [(p, p.detach().clone()) for p in network.parameters() if p.requires_grad]
        for parameter, _ in kept:
            parameter.data.copy_(parameter.main_grad)
        write_adapter(network, version.adapter, "", Path(to) / name)
        for parameter, value in kept:
            parameter.data.copy_(value)
    write_adapter(network, version.adapter, "", Path(to) / "weights")
    return penalty.value()


def written(directory: str, to: str) -> list:
    """Writes the adapters as they start; names and scales of the linears that have some, by rank."""
    recipe, model, *_ = prepared(directory)
    version = next(iter(recipe.versions.values()))
    assert version.adapter is not None
    write_adapter(unwrap(model), version.adapter, "", Path(to))
    return collectives.from_all(
        [[list(linear.joint.names), linear.joint.scale] for linear in adapted_linears(unwrap(model))]
    )


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
