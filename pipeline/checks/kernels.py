"""Checks of what computes attention and linears, as far as a recipe tells; what a machine has is decided where ranks start."""

from collections.abc import Iterator

from perdure.pipeline.checks.model import Problems, known_shape
from perdure.pipeline.core.errors import Problem
from perdure.pipeline.model.choices import FLASH_HEAD, TRANSFORMER_ENGINE, flash3_head
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.parameters import ParamRule
from perdure.pipeline.model.shape import Shape, dimensions
from perdure.pipeline.recipe import FP8, Recipe

ROWS = {"mxfp8": 32}
"""Tokens that FP8 takes together, by recipe; else 8 (Transformer Engine's `assert_dim_for_fp8_exec`)."""
COLUMNS = {"mxfp8": 32}
"""Widths that FP8 takes together, by recipe; else 16."""


def attention(recipe: Recipe) -> Problems:
    """Checks that the attention that is asked for computes this precision, these heads, documents, and deterministically."""
    wanted, training, shape = recipe.kernels, recipe.training, known_shape(recipe)
    name, where = wanted.attention, "kernels.attention"
    if name == "auto":
        return
    if training.precision != "bf16":
        yield Problem(where, name, "computes bf16 alone: training.precision should be bf16, or this auto")
    if name == "cudnn" and wanted.deterministic:
        remedy = "has no deterministic backward pass in torch: set kernels.deterministic: false, or another attention"
        yield Problem(where, name, remedy)
    if name == "cudnn" and training.document_mask:
        remedy = "cannot keep documents apart in torch: training.document_mask should be false, or this another attention"
        yield Problem(where, name, remedy)
    widest = {"flash2": FLASH_HEAD, "flash3": flash3_head(wanted)}.get(name)
    if shape and widest and shape.head_dim > widest:
        kind = "deterministically " if widest < FLASH_HEAD else ""
        remedy = f"{kind}computes heads of at most {widest}, the model has {shape.head_dim}"
        yield Problem(where, name, remedy)


def adapters(recipe: Recipe) -> Problems:
    """Checks that adapters stand beside Megatron's linears, and that norms are computed again beside these alone."""
    if recipe.kernels.linears != TRANSFORMER_ENGINE:
        return
    if recipe.parallel.recompute == "selective":
        remedy = "should be none or full with kernels.linears: transformer_engine, whose norms are no layers of their own"
        yield Problem("parallel.recompute", "selective", remedy)
    for name, version in recipe.versions.items():
        if version.adapter is not None:
            remedy = f"should be local: the adapter of version {name} stands beside Megatron's own linears"
            yield Problem("kernels.linears", TRANSFORMER_ENGINE, remedy)
            return


def fp8(recipe: Recipe) -> Problems:
    """Checks what FP8 needs, and that it computes layers at all."""
    kernels, training, parallel = recipe.kernels, recipe.training, recipe.parallel
    if (wanted := kernels.fp8) is None:
        return
    where = "kernels.fp8.recipe"
    if kernels.linears != TRANSFORMER_ENGINE:
        yield Problem("kernels.linears", kernels.linears, "should be transformer_engine, which computes FP8")
    if training.precision != "bf16":
        yield Problem("training.precision", training.precision, "should be bf16 with kernels.fp8")
    if wanted.recipe == "delayed" and parallel.recompute != "none":
        remedy = "cannot compute layers again (parallel.recompute): its scales have moved on by then; set it to current"
        yield Problem(where, wanted.recipe, remedy)
    if wanted.recipe == "delayed" and kernels.deterministic:
        remedy = (
            "begins anew with its scales at every start, so that what is resumed is not bit for bit what was not interrupted: "
            "set kernels.deterministic: false, or another recipe"
        )
        yield Problem(where, wanted.recipe, remedy)
    yield from _bf16_layers(recipe, wanted)
    yield from _sizes(recipe, wanted)


def _bf16_layers(recipe: Recipe, wanted: FP8) -> Problems:
    """Megatron's own conditions, which it raises when ranks have started."""
    shape, where = known_shape(recipe), "kernels.fp8"
    if not wanted.first_last_layers_bf16:
        return
    if wanted.recipe == "delayed":
        remedy = "should be false with delayed, whose scales Megatron updates for all layers at once"
        yield Problem(f"{where}.first_last_layers_bf16", True, remedy)
        return
    if shape is None:
        return
    stage = shape.num_layers // layout_of(recipe).pipeline
    first, last = wanted.num_layers_at_start_in_bf16, wanted.num_layers_at_end_in_bf16
    for name, number in (("start", first), ("end", last)):
        if number > stage:
            remedy = f"should be at most the layers of a pipeline stage ({stage})"
            yield Problem(f"{where}.num_layers_at_{name}_in_bf16", number, remedy)
    if first + last >= shape.num_layers:
        remedy = f"leave no layer in FP8: the model has {shape.num_layers}, and {first} + {last} stay in bf16"
        yield Problem(f"{where}.first_last_layers_bf16", True, remedy)


def _sizes(recipe: Recipe, wanted: FP8) -> Problems:
    """Sizes of a rank's matrix products that FP8 cannot compute."""
    shape, layout, training = known_shape(recipe), layout_of(recipe), recipe.training
    rows, columns = ROWS.get(wanted.recipe, 8), COLUMNS.get(wanted.recipe, 16)
    tokens = training.micro_batch_size * training.seq_length // layout.sequence
    if tokens % rows:
        remedy = f"gives a rank {tokens} tokens of a micro-batch at a time; FP8 ({wanted.recipe}) takes multiples of {rows}"
        yield Problem("training.seq_length", training.seq_length, remedy)
    if shape is None:
        return
    for rule, width in _widths(shape, layout.tensor):
        if width % columns:
            remedy = (
                f"cannot compute {rule.name}: a rank has {width} of a width; FP8 takes multiples of {columns}"
            )
            yield Problem("kernels.fp8.recipe", wanted.recipe, remedy)
            return


def _widths(shape: Shape, tensor: int) -> Iterator[tuple[ParamRule, int]]:
    """Outputs and inputs of a layer's matrices on one rank."""
    sizes = dimensions(shape, 0)
    for rule in FAMILIES[shape.family].layer:
        matrices = list(rule.tensors.values())
        if rule.is_matrix:
            outputs, inputs = sum(sizes[size[0]] for size in matrices), sizes[matrices[0][1]]
            yield rule, outputs // (tensor if rule.split == "column" else 1)
            yield rule, inputs // (tensor if rule.split == "row" else 1)


CHECKS = (attention, adapters, fp8)
