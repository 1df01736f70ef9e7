"""What tests ask of one step, on ranks of their own: `python step_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.model import collectives, gradients, weights
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.language_model import build_model, unwrap
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.optimizer import make_optimizer, set_learning_rate
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.plan import open_plan
from perdure.pipeline.recipe import load_recipe
from perdure.pipeline.train import ahead, fisher, guard, loader, process, saved, step, worker
from perdure.pipeline.train.counts import fingerprints, read_counts
from perdure.pipeline.train.dataset import open_dataset, read_batch, read_host_batch
from perdure.pipeline.train.objectives import objective_of


def prepared(directory: str):
    """Recipe, wrapped model with random weights, optimizer, objective and loader of a version."""
    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    version = recipe.versions[inputs["version"]]
    objective = objective_of(version, keys=open_plan(Path(directory) / "plan").keys)
    model = build_model(recipe, inputs["vocab_size"], initialise(), version.adapter)
    shape = model_shape(recipe)
    # Large enough that losses are far from those of guessing.
    read = weights.random_weights(shape, inputs["vocab_size"], 0.2, recipe.seed)
    weights.load_weights(unwrap(model), shape, read)
    optimizer = make_optimizer(recipe.training, model, recipe.parallel.distributed_optimizer)
    paths = [{name: Path(path) for name, path in inputs[part].items()} for part in ("data", "scores")]
    dataset = open_dataset(Path(directory) / "plan", *paths, objective=objective)
    device, rank = torch.device("cpu"), mpu.get_data_parallel_rank()
    return (
        recipe,
        model,
        optimizer,
        objective,
        loader.Loader(dataset, layout_of(recipe), recipe.training, rank, device),
    )


def first_step(directory: str) -> dict:
    """The first step: which samples each rank reads for each of its micro-batches, and what is counted."""
    recipe, model, optimizer, objective, reader = prepared(directory)
    read: list[list[int]] = []

    def reading(dataset, indices):
        read.append(list(indices))
        return read_host_batch(dataset, indices)

    loader.read_host_batch, ahead.AHEAD = reading, 0
    set_learning_rate(optimizer, 0.01, 0.1)
    counts, grad_norm, _ = step.train_step(model, optimizer, objective, reader, recipe.training, 0)
    # Nothing is clipped, so Megatron measures the same gradient.
    assert grad_norm == optimizer.get_grad_norm()
    return {"read": collectives.from_all(read), "counts": vars(counts), "grad_norm": grad_norm}


def whole(directory: str, depth: int) -> None:
    """A version from its start to its export, with so many micro-batches read ahead."""
    ahead.AHEAD = depth
    process.start_rank()
    destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None
    worker.main(Path(directory), "train")
    dist.destroy_process_group = destroy


def by_hand(directory: str, pooled: int) -> dict:
    """What the first step comes to, on one rank without Megatron's schedule: `pooled` micro-batches compete with one another.

    The loss is the mean over the selected tokens of the whole batch, and its gradient that of this mean.
    """
    recipe, model, _, objective, reader = prepared(directory)
    network, training = unwrap(model), recipe.training
    micro, batch, k = training.micro_batch_size, training.global_batch_size, objective.selection.k
    sums, chosen, tokens, prints = [], 0, 0, torch.zeros(2, dtype=torch.int64)
    for first in range(0, batch, micro * pooled):
        found = []
        for start in range(first, first + micro * pooled, micro):
            indices = range(start, start + micro)
            own = read_batch(reader.dataset, indices, torch.device("cpu"))
            nll = network(own.tokens, own.positions, own.labels, valid=own.valid)[2]
            loss = torch.nn.functional.cross_entropy(
                logits(network, own).flatten(0, 1), own.labels.flatten(), reduction="none"
            )
            assert torch.allclose(loss.view_as(nll), nll, atol=1e-4)
            found.append((own, loss.view_as(nll)))
        excess = torch.cat([(loss.detach() - own.reference / 1000).flatten() for own, loss in found])
        valid = torch.cat([own.valid.flatten() for own, _ in found])
        assert not any(own.replayed.any() or (own.reference[own.valid] == 65535).any() for own, _ in found)
        order = excess.masked_fill(~valid, -torch.inf).sort(descending=True, stable=True).indices
        mask = torch.zeros_like(valid)
        mask[order[: int(k * int(valid.sum()) + 0.5)]] = True
        for (own, loss), part in zip(found, mask.split(micro * training.seq_length), strict=True):
            part = part.view_as(own.valid)
            sums.append((loss * part).sum())
            chosen, tokens = chosen + int(part.sum()), tokens + int(own.valid.sum())
            prints += fingerprints(own, part)
    gradients = torch.autograd.grad(sum(sums) / chosen, list(network.parameters()))
    return {
        "selection": f"{int(prints[1]) & (1 << 64) - 1:016x}",
        "selected": chosen,
        "tokens": tokens,
        "selected_loss": float(sum(sums).detach()),
        "grad_norm": float(torch.cat([gradient.flatten() for gradient in gradients]).norm()),
    }


def logits(network, batch) -> torch.Tensor:
    """float32 [batch, sequence, vocabulary]: the last hidden states times the output weight, padding rows aside."""
    hidden = super(type(network), network).forward(batch.tokens, batch.positions, None)
    tied = network.share_embeddings_and_output_weights
    weight = network.shared_embedding_or_output_weight() if tied else network.output_layer.weight
    rows = weight[: network.loss_options["vocab_size"]]
    return hidden.transpose(0, 1) @ rows.t()


def fisher_by_hand(directory: str, examples: int) -> list[float]:
    """Largest value of the Fisher information of the first samples, and largest difference from autograd's, sample by sample.

    Data-parallel ranks share the samples: `examples` is a multiple of their number. Rank 0 tells.
    """
    recipe, model, optimizer, _, reader = prepared(directory)
    network, cpu = unwrap(model), torch.device("cpu")
    batches = [read_batch(reader.dataset, range(number, number + 1), cpu) for number in range(examples)]
    batches = [replace(own, source=torch.zeros_like(own.source)) for own in batches]  # of one source
    rank, ranks = mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size()
    found = fisher.of_samples(recipe, model, optimizer, iter(batches[rank::ranks]), examples)
    weights = optimizer.chained_optimizers[0].get_parameters()
    expected = [torch.zeros_like(weight) for weight in weights]
    for own in batches:
        valid = own.valid.flatten()
        loss = torch.nn.functional.cross_entropy(
            logits(network, own).flatten(0, 1)[valid], own.labels.flatten()[valid]
        )
        for total, gradient in zip(expected, torch.autograd.grad(loss, weights), strict=True):
            total += gradient**2 / examples
    difference = max((left - right).abs().max() for left, right in zip(found, expected, strict=True))
    assert all(not weight.main_grad.any() for weight in weights)  # training begins with none
    return [max(value.max() for value in expected).item(), difference.item()]


def one_update(directory: str, lr: float, decay: float) -> dict:
    """One step with a gradient, then one without: norms of first moments, and by what factor each parameter then shrinks."""
    recipe, model, optimizer, objective, reader = prepared(directory)
    set_learning_rate(optimizer, 0.0, 0.0)
    _, grad_norm, _ = step.train_step(model, optimizer, objective, reader, recipe.training, 0)
    states = optimizer.chained_optimizers[0].optimizer.state
    moments = torch.cat([state["exp_avg"].flatten() for state in states.values()])
    for (
        state
    ) in states.values():  # moments of zero and no gradient: what is left of AdamW's update is the decay
        state["exp_avg"].zero_()
    before = {name: value.detach().clone() for name, value in unwrap(model).named_parameters()}
    model.zero_grad_buffer()
    optimizer.zero_grad()
    set_learning_rate(optimizer, lr, decay)
    step.update(optimizer, float(gradients.squared_norm(optimizer)) ** 0.5)
    after = dict(unwrap(model).named_parameters())
    factors = {name: (after[name].norm() / value.norm()).item() for name, value in before.items()}
    return {"grad_norm": grad_norm, "moments": moments.norm().item(), "factors": factors}


def agreements(directory: str) -> list:
    """By rank: the highest of all ranks' numbers; the checkpoint that each goes on from though each finds another one;
    what is said if the last rank reads other content under its name; and counts and numbers that differ over ranks, as they are
    read.
    """
    initialise()
    rank, paths = dist.get_rank(), sorted((Path(directory) / "checkpoints").iterdir())
    highest = [guard.agree(number) for number in (rank, 5 - rank, 0)]
    found = saved.agreed(lambda: paths[rank])
    hashed = saved.hash_file
    saved.hash_file = lambda path: hashed(path) if rank == 0 else "0123456789"
    try:
        saved.agreed(lambda: paths[0])
        said = "nothing"
    except PerdureError as error:
        said = str(error)
    return collectives.from_all([highest, found.name, saved.agreed(lambda: None), said, differing(rank)])


def differing(rank: int) -> list:
    """Sums of which rank 1 has the higher, and a norm that is no number on rank 1."""
    mpu.initialize_model_parallel()
    # What 0/0 is on x86: as an integer below all others.
    nan = torch.tensor([-0x0008000000000000]).view(torch.float64)
    summed = {
        "sums": torch.tensor([8.0, 2.0 + rank * 2.0**-50, 8.0, 4.0, 1.0, 0.0], dtype=torch.float64),
        "prints": torch.tensor([-1, 7]),
        "threshold": torch.tensor(-1.5, dtype=torch.float64),
    }
    counts, (norm, other) = read_counts(summed, nan if rank else torch.ones(1), torch.tensor([0.5]))
    assert nan.isnan() and counts.threshold == -1.5 and counts.sums == {}
    assert (counts.stream, counts.selection) == ("f" * 16, "7".zfill(16))
    return [counts.tokens, counts.loss, counts.selected_tokens, str(norm), other]


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
