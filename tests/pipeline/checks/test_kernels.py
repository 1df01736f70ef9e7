"""Checks of what computes attention and linears: what no machine can do is a mistake, what this one lacks a warning."""

import pytest

from perdure.pipeline.checks.memory import memory_per_rank
from perdure.pipeline.model.choices import lacking
from perdure.pipeline.model.families import FAMILIES
from perdure.pipeline.model.shape import dimensions, model_shape
from perdure.pipeline.recipe import load_recipe
from tests.pipeline.checks.template import TEMPLATE, found

BF16 = "training.precision=bf16"
ENGINE = (BF16, "kernels.linears=transformer_engine")
UNDETERMINED = "kernels.deterministic=false"
WIDE = ("model.num_attention_heads=1", "model.num_query_groups=1")


def fp8(recipe: str, *fields: str) -> tuple[str, ...]:
    return (*ENGINE, f"kernels.fp8={{{', '.join([f'recipe: {recipe}', *fields])}}}")


@pytest.mark.parametrize(
    ("overrides", "path", "remedy"),
    [
        (("kernels.attention=flash2",), "kernels.attention", "training.precision should be bf16"),
        ((BF16, "kernels.attention=cudnn"), "kernels.attention", "set kernels.deterministic: false"),
        (
            (BF16, UNDETERMINED, "kernels.attention=cudnn", "training.document_mask=true"),
            "kernels.attention",
            "training.document_mask should be false",
        ),
        (
            (BF16, *WIDE, "model.hidden_size=256", "kernels.attention=flash3"),
            "kernels.attention",
            "deterministically computes heads of at most 192, the model has 256",
        ),
        (
            (BF16, *WIDE, "model.hidden_size=512", "kernels.attention=flash2"),
            "kernels.attention",
            "computes heads of at most 256, the model has 512",
        ),
        (
            (*ENGINE, "versions.update.adapter={type: lora, rank: 4}"),
            "kernels.linears",
            "should be local: the adapter of version update",
        ),
        ((*ENGINE, "parallel.recompute=selective"), "parallel.recompute", "should be none or full"),
        ((BF16, "kernels.fp8={recipe: current}"), "kernels.linears", "should be transformer_engine"),
        ((*fp8("current"), "training.precision=fp32"), "training.precision", "should be bf16"),
        (
            (*fp8("delayed", "first_last_layers_bf16: false"), UNDETERMINED, "parallel.recompute=full"),
            "kernels.fp8.recipe",
            "cannot compute layers again",
        ),
        (fp8("delayed", "first_last_layers_bf16: false"), "kernels.fp8.recipe", "deterministic: false"),
        ((*fp8("delayed"), UNDETERMINED), "kernels.fp8.first_last_layers_bf16", "should be false"),
        (
            (*fp8("current"), "parallel.pipeline_parallel=4", "kernels.fp8.num_layers_at_end_in_bf16=2"),
            "kernels.fp8.num_layers_at_end_in_bf16",
            "at most the layers of a pipeline stage (1)",
        ),
        (
            (*fp8("current"), "kernels.fp8.num_layers_at_start_in_bf16=3"),
            "kernels.fp8.first_last_layers_bf16",
            "the model has 4, and 3 + 1 stay",
        ),
        (
            (*fp8("mxfp8"), "training.seq_length=24", "training.micro_batch_size=1"),
            "training.seq_length",
            "24 tokens of a micro-batch at a time; FP8 (mxfp8) takes multiples of 32",
        ),
        (
            (*fp8("current"), "model.ffn_hidden_size=360"),
            "kernels.fp8.recipe",
            "mlp.linear_fc2.weight: a rank has 360 of a width; FP8 takes multiples of 16",
        ),
        (("kernels.attention=flash4",), "kernels.attention", "flash2"),
    ],
)
def test_what_no_machine_can_compute_is_a_mistake(overrides, path, remedy):
    assert remedy in found(*overrides)[path][1]


@pytest.mark.parametrize(
    "overrides",
    [
        (UNDETERMINED,),
        (BF16, "kernels.attention=flash3"),
        (BF16, *WIDE, "model.hidden_size=256", "kernels.attention=flash3", UNDETERMINED),
        (BF16, "kernels.attention=cudnn", UNDETERMINED),
        (*ENGINE, "kernels.attention=transformer_engine", "training.document_mask=true"),
        fp8("current"),
        (
            *fp8("current"),
            "parallel.recompute=full",
            "parallel.tensor_parallel=2",
            "parallel.sequence_parallel=true",
        ),
        (*fp8("delayed", "first_last_layers_bf16: false"), UNDETERMINED),
        fp8("mxfp8", "num_layers_at_start_in_bf16: 0"),
    ],
)
def test_what_some_machine_can_compute_is_none(overrides):
    assert found(*overrides) == {}


def test_what_is_not_installed_here_is_a_warning():
    lines = lacking(load_recipe(TEMPLATE, (*ENGINE, "kernels.attention=flash3")).kernels)
    assert [line.split(", which is not installed here")[0] for line in lines] == [
        "kernels.attention: flash3 needs the package flash_attn_interface",
        "kernels.linears: transformer_engine needs the package transformer_engine",
    ]
    assert lacking(load_recipe(TEMPLATE, (BF16, "kernels.attention=flash2")).kernels) == []


def test_memory_of_copies_in_8_bits():
    def memory(*overrides):
        return memory_per_rank(load_recipe(TEMPLATE, overrides))

    plain = memory(*ENGINE)
    assert plain == memory(BF16) and "fp8_weights" not in plain
    shape = model_shape(load_recipe(TEMPLATE))
    widths, rules = dimensions(shape, 0), FAMILIES[shape.family].layer
    matrices = sum(rule.count(widths) for rule in rules if rule.name.startswith(("self_attention", "mlp")))
    layers = shape.num_layers
    for overrides, copied in (
        (fp8("current"), 2 * (layers - 2) * matrices),
        (fp8("current", "first_last_layers_bf16: false"), 2 * layers * matrices),
        (fp8("mxfp8", "num_layers_at_start_in_bf16: 0"), (2 + 2 / 32) * (layers - 1) * matrices),
        ((*fp8("current"), "parallel.pipeline_parallel=2"), 2 * (layers / 2 - 1) * matrices),
        ((*fp8("current"), "parallel.pipeline_parallel=4"), 2 * matrices),  # stages between the ends
    ):
        measured = memory(*overrides)
        assert measured["fp8_weights"] == copied
    assert memory(*fp8("current"))["total"] == plain["total"] + 2 * (layers - 2) * matrices
