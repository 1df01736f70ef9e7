"""What tests of a KL anchor ask of ranks: `python kl_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import hashlib
import json
import sys
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.nn.functional as F
from step_ranks import logits, prepared

from perdure.pipeline.model import collectives, weights
from perdure.pipeline.model.gradients import squared_norm
from perdure.pipeline.model.language_model import build_stage, unwrap
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.recipe import KLAnchor
from perdure.pipeline.train.counts import read_counts, sum_counts
from perdure.pipeline.train.forward import token_losses
from perdure.pipeline.train.microbatches import run_batches
from perdure.pipeline.train.objectives.kl import AnchoredLanguageModeling
from perdure.pipeline.train.objectives.teacher import Teacher


def teacher_of(recipe, vocab_size: int, seed: int) -> Teacher:
    """A frozen model with random weights; with the recipe's seed those that `prepared` gives."""
    model, shape = unwrap(build_stage(recipe, vocab_size, torch.device("cpu"))), model_shape(recipe)
    weights.load_weights(model, shape, weights.random_weights(shape, vocab_size, 0.2, seed))
    return Teacher(model.eval(), recipe.training)


def first_steps(directory: str, anchors: list, seed: int | None = None) -> list:
    """The gradients of the first batch, once for each anchor, with the same weights; without one: the plain loss.

    By anchor a dictionary: `kl`, `grad_norm`; by rank a hash of its parameters' gradients, how many micro-batches the teacher
    ran, and, on the last stage, hashes of the gradient of the last hidden states, sample by sample, as [replayed, hash].
    """
    recipe, model, optimizer, plain, reader = prepared(directory)
    network = unwrap(model)
    teacher = teacher_of(recipe, network.loss_options["vocab_size"], recipe.seed if seed is None else seed)
    found = []
    for anchor in anchors:
        objective = plain
        if anchor is not None:
            chosen = KLAnchor.model_validate({"type": "kl"} | anchor)
            objective = AnchoredLanguageModeling(plain.selection, anchor=chosen, teacher=teacher)
        batches = list(
            objective.prepare(reader.batches(0), lambda whole: token_losses(model, recipe.training, whole))
        )
        taken, handle = kept_gradients(network.decoder)
        model.zero_grad_buffer()
        optimizer.zero_grad()
        counted = run_batches(
            model,
            objective,
            iter(batches),
            reader.num_microbatches,
            recipe.training,
            reader.num_sources,
            False,
        )
        handle.remove()
        buffers = [hashed(parameter.main_grad) for parameter in network.parameters()]
        counts, (squares,) = read_counts(
            sum_counts(counted, reader.num_sources, objective.sums), squared_norm(optimizer)
        )
        assert squares**0.5 == optimizer.get_grad_norm()  # Megatron's, under every layout
        samples = []
        for batch, gradient in zip(batches, taken) if mpu.is_pipeline_last_stage() else ():
            rows = gradient.transpose(0, 1).unbind()
            samples += [
                [bool(replayed), hashed(row)] for replayed, row in zip(batch.replayed, rows, strict=True)
            ]
        ran = sum(batch.teacher_hidden is not None for batch in batches)
        told = collectives.from_all([buffers, ran, samples])
        found.append(
            {
                "kl": counts.sums.get("kl"),
                "loss": objective.loss(counts),
                "selection": counts.selection,
                "grad_norm": squares**0.5,
                "gradients": [own[0] for own in told],
                "ran": [own[1] for own in told],
                "samples": [own[2] for own in told],
            }
        )
    return found


def kept_gradients(module: torch.nn.Module) -> tuple[list[torch.Tensor], torch.utils.hooks.RemovableHandle]:
    """A list that receives the gradient of each output of a module, until the handle is removed."""
    taken: list[torch.Tensor] = []

    def taking(_module, _inputs, output) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: taken.append(gradient.detach().clone()))

    return taken, module.register_forward_hook(taking)


def by_hand(directory: str, anchor: dict, seed: int) -> dict:
    """What the first step comes to, on one rank, with all logits of both models and torch's own `kl_div`."""
    recipe, model, _, _, reader = prepared(directory)
    network, chosen = unwrap(model), KLAnchor.model_validate({"type": "kl"} | anchor)
    other = teacher_of(recipe, network.loss_options["vocab_size"], seed).model
    total, tokens, nats, compared = torch.zeros(()), 0, 0.0, 0
    for batch in reader.batches(0):
        ours = logits(network, batch).log_softmax(-1)
        with torch.no_grad():
            theirs = logits(other, batch).log_softmax(-1)
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        loss = F.nll_loss(ours.flatten(0, 1), batch.labels.flatten(), reduction="none").view_as(divergence)
        own = batch.valid & (batch.replayed[:, None] | (chosen.on == "all"))
        entropy = batch.valid & ~own if chosen.instead_of_loss else batch.valid
        total = total + loss[entropy].sum() + chosen.weight * divergence[own].sum()
        tokens, compared = tokens + int(batch.valid.sum()), compared + int(own.sum())
        nats += float(divergence[own].detach().double().sum())
    gradients = torch.autograd.grad(total / tokens, list(network.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    return {"grad_norm": float(norm), "kl": [nats, compared]}


def hashed(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bits; -0 is 0."""
    return hashlib.sha256((tensor.detach().float().contiguous() + 0.0).numpy().tobytes()).hexdigest()[:16]


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
