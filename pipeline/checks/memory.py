"""Memory of one rank, from the recipe alone."""

from typing import Any

from perdure.pipeline.checks.sizes import embedding_rows
from perdure.pipeline.model.adapter_sizes import adapter_parameters
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.parameters import TOP
from perdure.pipeline.model.shape import dimensions, model_shape, padded_vocab_size
from perdure.pipeline.recipe import FP8, KLAnchor, LoRA, Recipe

FORMULAS = {
    "none": (
        "micro batch x sequence x max(first stage: in flight x layers, last stage: layers + 4 hidden) + loss; a layer: "
        "(4 hidden/sp + (2 query + 2 key_value + 3 ffn)/tp) x bytes; loss: part of the logits, see loss_implementation"
    ),
    "selective": (
        "micro batch x sequence x max(first stage: in flight x layers, last stage: layers + 4 hidden) + one layer's rest + "
        "loss; a layer keeps (2 hidden/sp + (2 query + 2 key_value + 2 ffn)/tp) x bytes, its rest is "
        "(2 hidden/sp + ffn/tp) x bytes"
    ),
    "full": (
        "micro batch x sequence x max(first stage: in flight x layers, last stage: layers + 4 hidden) + one whole layer + "
        "loss; a layer keeps hidden/sp x bytes, a whole one has (4 hidden/sp + (2 query + 2 key_value + 3 ffn)/tp) x bytes"
    ),
}
"""What the backward pass keeps, by `parallel.recompute`: per layer the inputs of both norms and both blocks (sp is tp under
sequence parallelism, else 1), q, k, v and the attention's output, and the SwiGLU's gate, up and product; on the last stage the
fp32 gradient of the last hidden states, and what `_loss_bytes` says. In flight: the micro-batches that the first stage of a
one-forward-one-backward pipeline holds at a time. `selective` keeps neither the inputs of blocks nor the product; `full` keeps
2 s b h / t bytes a layer under bf16 (Korthikanti et al. 2022, section 5). Either has the layer whole that the backward pass is
at."""

LOGIT_BYTES = 128 << 20
"""Most that `triton` holds of gradients of logits, and `auto` on CPUs of logits and gradients."""
CHUNK_LOGITS = 1 << 26
"""Most logits that `chunked` holds on a GPU."""


def memory_per_rank(recipe: Recipe, adapter: LoRA | None = None) -> dict[str, Any]:
    """Bytes on the fullest rank: weights, gradients and optimizer states exactly, activations as an estimate.

    With an adapter only its matrices have gradients and optimizer states. Its activations, rank numbers a token and module, are
    left out of the estimate.

    Gradients are kept in fp32. Optimizer states are Adam's two fp32 moments, what step hooks keep of each weight, and fp32
    master weights under bf16. `save` is no part of `total`: the host's memory that a checkpoint holds until it is written.
    Replicas divide it among themselves. `fp8_weights`, with FP8 alone: copies of the layers' matrices and of their transposes;
    activations are counted as in bf16. `teacher`, with a `kl` anchor alone: the frozen model's weights, and its last hidden
    states of all micro-batches of a step.
    """
    layout, parallel, training = layout_of(recipe), recipe.parallel, recipe.training
    shape, num_embeddings = model_shape(recipe), embedding_rows(recipe)
    assert num_embeddings is not None  # a checked recipe has a readable tokenizer
    tensor, pipeline, data = layout.tensor, layout.pipeline, layout.data
    query, key_value = shape.num_attention_heads * shape.head_dim, shape.num_query_groups * shape.head_dim
    layers = shape.num_layers // pipeline
    padded = padded_vocab_size(num_embeddings)
    rows, widths = padded // tensor, dimensions(shape, padded)

    layer = sum(rule.count(widths, tensor) for rule in FAMILIES[shape.family].layer)
    embedding, norm, head = (rule.count(widths, tensor) for rule in TOP)
    # First and last stage hold an embedding each; on one stage tied embeddings are a single matrix.
    embeddings = embedding + (0 if pipeline > 1 or shape.tie_embeddings else head)
    parameters = trained = layers * layer + embeddings + norm
    if adapter:
        trained = layers * adapter_parameters(shape, adapter, tensor)
        parameters += trained

    width = 2 if training.precision == "bf16" else 4
    states = trained * ((12 if training.precision == "bf16" else 8) + 4 * companions(recipe))
    micro_batches = layout.micro_batches(training)
    tokens = training.micro_batch_size * training.seq_length
    per_layer = 4 * shape.hidden_size // layout.sequence
    per_layer += (2 * query + 2 * key_value + 3 * shape.ffn_hidden_size) // tensor
    kept = {
        "none": per_layer,
        "selective": per_layer - 2 * shape.hidden_size // layout.sequence - shape.ffn_hidden_size // tensor,
        "full": shape.hidden_size // layout.sequence,
    }[parallel.recompute]
    # What a layer has more of while the backward pass is there.
    at_work = {"none": 0, "selective": per_layer - kept, "full": per_layer}[parallel.recompute]
    first_stage = tokens * (min(pipeline, micro_batches) * layers * kept + at_work) * width
    last_stage = tokens * ((layers * kept + at_work) * width + 4 * shape.hidden_size)
    last_stage += _loss_bytes(training.loss_implementation, tokens * rows, width)
    parts = {
        "weights": parameters * width,
        "gradients": trained * 4,
        "optimizer": states // data if parallel.distributed_optimizer else states,
        "activations": max(first_stage, last_stage),
    }
    if fp8 := recipe.kernels.fp8:
        copied = layers - _bf16_layers(fp8, shape.num_layers, layers)
        matrices = sum(rule.count(widths, tensor) for rule in FAMILIES[shape.family].layer if rule.is_matrix)
        # Of 32 numbers MXFP8 has a scale, of a byte; the others one of a tensor.
        parts["fp8_weights"] = 2 * copied * matrices * (33 if fp8.recipe == "mxfp8" else 32) // 32
    if any(isinstance(version.anchor, KLAnchor) for version in recipe.versions.values()):
        hidden_states = micro_batches * tokens * shape.hidden_size // layout.sequence
        parts["teacher"] = (parameters + hidden_states) * width
    return {
        "parameters": parameters,
        **parts,
        "total": sum(parts.values()),
        "save": (parts["weights"] + states) // data,
        "activations_formula": FORMULAS[parallel.recompute],
    }


def companions(recipe: Recipe) -> int:
    """Most fp32 copies of the weights that step hooks of a version keep in the optimizer's states."""
    versions, anchors = recipe.versions.values(), {"l2": 1, "fisher": 2}
    own = [
        2 * bool(version.elastic_reset)
        + bool(version.reptile)
        + (anchors.get(version.anchor.type, 0) if version.anchor else 0)
        for version in versions
    ]
    return max(own) + (recipe.training.ema is not None)


def adapter_memory(recipe: Recipe, adapter: LoRA) -> dict[str, Any]:
    """What an adapter trains, and the memory of the fullest rank with it and without."""
    shape, own = model_shape(recipe), memory_per_rank(recipe, adapter)
    return {
        **adapter.model_dump(mode="json"),
        "scale": adapter.scale,
        "parameters": shape.num_layers * adapter_parameters(shape, adapter),
        "memory_per_rank": own,
        "saved": memory_per_rank(recipe)["total"] - own["total"],
    }


def _bf16_layers(fp8: FP8, num_layers: int, layers: int) -> int:
    """Layers of the stage with the fewest of them that stay in bf16: a stage between the ends, if there is one."""
    if not fp8.first_last_layers_bf16 or num_layers // layers > 2:
        return 0
    ends = fp8.num_layers_at_start_in_bf16, fp8.num_layers_at_end_in_bf16
    return sum(ends) if layers == num_layers else min(ends)


def _loss_bytes(implementation: str, logits: int, width: int) -> int:
    """Logits and their gradients that exist at a time, in bytes, if all tokens are selected."""
    if implementation == "torch":
        return logits * 8
    if implementation == "chunked":
        return min(logits, CHUNK_LOGITS) * (4 + width)
    return min(logits * (width if implementation == "triton" else 8), LOGIT_BYTES)
