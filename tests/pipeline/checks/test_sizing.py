"""Sizes and times on paper: exact where theory gives them, and against published runs of Megatron."""

import json
from pathlib import Path

import pytest
import yaml
from tiny import tiny_recipe

from perdure.pipeline.checks.check import load_checked, load_on_paper
from perdure.pipeline.checks.memory import memory_per_rank
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.checks.sizing import compute_seconds, reduced_bytes, sizing
from perdure.pipeline.cli.entry import main
from perdure.pipeline.cli.sizing_text import print_sizing
from perdure.pipeline.core.errors import RecipeError
from perdure.pipeline.model.shape import Shape, flops_per_token, model_shape
from perdure.pipeline.recipe import Recipe, RecipeSource

RECIPES = Path(__file__).parents[3] / "data_recipes"
LLAMA = {"8b": RECIPES / "llama3_8b_update.yaml", "70b": RECIPES / "llama3_70b_update.yaml"}
H100 = 989.0


def on_paper(model: str, nodes: int, *overrides: str) -> Recipe:
    return load_on_paper(RecipeSource(LLAMA[model], overrides), nodes=nodes, ranks_per_node=8)[0]


@pytest.mark.parametrize(("model", "parameters"), [("8b", 8_030_261_248), ("70b", 70_553_706_496)])
def test_parameters_of_the_models_as_published(model, parameters):
    assert preview(on_paper(model, 64))["model"]["parameters"] == parameters


def test_flops_are_those_of_narayanan_and_others_less_half_the_attention():
    layers, hidden, heads, vocab, length = 6, 384, 6, 1000, 256
    # Of GPT's four wide FFN of two matrices, the SwiGLU of the same size has three of 8/3.
    shape = Shape(layers, hidden, 8 * hidden // 3, heads, heads, hidden // heads, False, 1e4, 1e-5)
    paper = 72 * layers * hidden**2 * (1 + length / (6 * hidden) + vocab / (12 * layers * hidden))
    norms = 6 * (2 * layers + 1) * hidden
    causal = 6 * layers * length * hidden
    assert flops_per_token(shape, vocab, length) == pytest.approx(paper - causal + norms, rel=1e-12)


def whole_attention(recipe: Recipe) -> float:
    """FLOPs per token with attention counted whole, as NVIDIA's benchmarks of NeMo count them."""
    shape, length = model_shape(recipe), recipe.training.seq_length
    attention = 6 * shape.num_layers * shape.num_attention_heads * shape.head_dim * length
    return flops_per_token(shape, 128_256, length) + attention


# NVIDIA/dgxc-benchmarking, llama3.1/README_{8b,70b}.md, BF16 on H100: GPUs, samples of 8,192 tokens, MFU, seconds a step.
PUBLISHED = [
    *(("8b", *row) for row in [(8, 128, 0.5937, 12.91), (64, 1024, 0.5860, 13.08), (128, 2048, 0.5851, 13.10)]),
    *(("70b", *row) for row in [(64, 128, 0.5410, 14.72), (512, 1024, 0.5348, 14.89), (2048, 4096, 0.5338, 14.98)]),
]  # fmt: skip


@pytest.mark.parametrize(("model", "gpus", "samples", "mfu", "seconds"), PUBLISHED)
def test_step_times_of_published_runs_at_their_mfu(model, gpus, samples, mfu, seconds):
    flops = whole_attention(on_paper(model, 64)) * samples * 8192
    assert compute_seconds(flops, gpus, H100, mfu) == pytest.approx(seconds, rel=0.01)


@pytest.mark.parametrize(("model", "tflops", "tokens"), [("8b", 744, 14_451), ("70b", 719, 1602)])
def test_flops_a_token_of_megatron_bridge(model, tflops, tokens):
    # NVIDIA-NeMo/Megatron-Bridge, docs/performance-summary.md, 25.11, DGX-H100; attention counted as causal.
    recipe = on_paper(model, 64)
    found = flops_per_token(model_shape(recipe), 128_256, 8192)
    assert found == pytest.approx(tflops * 1e12 / tokens, rel=0.002)


@pytest.mark.parametrize(
    ("model", "nodes", "layout", "published"),
    [("8b", 8, (1, 1), PUBLISHED[1]), ("70b", 64, (4, 4), PUBLISHED[4])],
)
def test_a_published_layout_takes_as_long_and_what_is_not_hidden(model, nodes, layout, published):
    *_, gpus, samples, mfu, seconds = published
    tensor, pipeline = layout
    overrides = [
        f"parallel.tensor_parallel={tensor}",
        f"parallel.pipeline_parallel={pipeline}",
        f"parallel.sequence_parallel={str(tensor > 1).lower()}",
        f"training.global_batch_size={samples}",
    ]
    recipe = on_paper(model, nodes, *overrides)
    causal = flops_per_token(model_shape(recipe), 128_256, 8192) / whole_attention(recipe)
    recipe = on_paper(model, nodes, *overrides, f"cluster.gpu.mfu={mfu * causal}")
    found = sizing(recipe, nodes, 8)
    assert found["gpus"] == gpus == nodes * 8
    assert found["step"]["compute"] == pytest.approx(seconds, rel=0.01)
    # Theirs interleaves stages, and hides the reduction behind the passes.
    assert seconds < found["step"]["seconds"] < 1.15 * seconds


# Their two context-parallel ranks have half a sequence each, which half the length stands for.
PUBLISHED_LAYOUTS = [("8b", 8, "tensor_parallel=1"), ("70b", 64, "tensor_parallel=4")]


@pytest.mark.parametrize(("model", "nodes", "tensor"), PUBLISHED_LAYOUTS)
def test_published_layouts_fit_into_80_gb(model, nodes, tensor):
    overrides = [f"parallel.{tensor}", f"parallel.sequence_parallel={str(model == '70b').lower()}"]
    half = on_paper(model, nodes, *overrides, "training.seq_length=4096")
    assert sizing(half, nodes, 8)["memory"]["fits"]
    if model == "8b":
        whole = sizing(on_paper(model, nodes, *overrides), nodes, 8)
        assert not whole["memory"]["fits"]
        assert whole["advice"][0].startswith("does not fit into 79.6 GiB")


@pytest.mark.parametrize("model", LLAMA)
def test_our_recipes_fit_and_need_no_advice_where_they_are_meant_to_run(model):
    nodes = {"8b": 8, "70b": 64}[model]
    found = sizing(on_paper(model, nodes), nodes, 8)
    assert found["memory"]["fits"] and found["advice"] == []


def activations(layers: int, recompute: bool | str = False) -> int:
    """Of a small model whose SwiGLU of 8/3 the width keeps as much as a GELU of four times, in bf16, t = 2."""
    model = {"num_layers": layers, "hidden_size": 48, "ffn_hidden_size": 128}
    recipe = tiny_recipe(
        Path("unused"),
        model={"type": "llama", **model, "num_attention_heads": 4, "num_query_groups": 4},
        training__precision="bf16",
        parallel={"tensor_parallel": 2, "sequence_parallel": True, "recompute": recompute},
    )
    return memory_per_rank(recipe)["activations"]


def test_activations_of_a_layer_are_those_of_korthikanti_and_others():
    sbh = 32 * 2 * 48
    # 34 s b h / t (table 2, both techniques) less two masks of dropout, which we have none of, of a byte each.
    assert activations(3) - activations(2) == 32 * sbh // 2
    # With recomputation 2 s b h (the input), divided by t because it is split along the sequence; and one whole layer.
    assert activations(3, recompute=True) - activations(2, recompute=True) == 2 * sbh // 2
    assert activations(1, recompute=True) - activations(1) == 2 * sbh // 2
    # Without the outputs of two norms, h each, and the SwiGLU's product, 8/3 h; one layer has them.
    dropped = 2 * (2 + 8 / 3) * sbh / 2
    kept = activations(3, recompute="selective") - activations(2, recompute="selective")
    assert kept == 32 * sbh // 2 - dropped
    assert activations(1, recompute="selective") == activations(1)
    assert [activations(2, recompute=old) for old in (True, False)] == [
        activations(2, recompute=new) for new in ("full", "none")
    ]


def test_recomputation_takes_a_forward_pass_and_makes_room():
    alone = ["parallel.tensor_parallel=1", "parallel.sequence_parallel=false"]
    plain, again = (
        sizing(on_paper("8b", 8, *alone, f"parallel.recompute={recompute}"), 8, 8)
        for recompute in ("false", "true")
    )
    assert (plain["memory"]["fits"], again["memory"]["fits"]) == (False, True)
    assert "or set recompute" in plain["advice"][0]
    assert again["step"]["compute"] == pytest.approx(plain["step"]["compute"] * 4 / 3)
    # The FLOPs of the model are the same: what is computed twice does not count as use.
    assert again["step"]["mfu"] * again["step"]["seconds"] == pytest.approx(
        plain["step"]["mfu"] * plain["step"]["seconds"]
    )


def test_bytes_of_the_reduction():
    # A ring sends (d - 1) / d of what it reduces, and as much of what it gathers.
    assert reduced_bytes(1000, 4, True, 2) == 1000 * (4 + 2) * 3 / 4
    assert reduced_bytes(1000, 4, True, 4) == reduced_bytes(1000, 4, False, 2) == 1000 * 8 * 3 / 4
    assert reduced_bytes(1000, 1, True, 2) == 0


@pytest.mark.parametrize(("precision", "distributed", "width"), [
    ("bf16", True, 4 + 2), ("bf16", False, 4 + 4), ("fp32", True, 4 + 4), ("fp32", False, 4 + 4),
])  # fmt: skip
def test_a_step_reduces_fp32_gradients_and_gathers_weights_as_wide_as_they_are(precision, distributed, width):
    layout = [f"training.precision={precision}", f"parallel.distributed_optimizer={str(distributed).lower()}"]
    recipe = on_paper("8b", 8, *layout)
    found, replicas = sizing(recipe, 8, 8), recipe.parallel.data_parallel
    sent = memory_per_rank(recipe)["parameters"] * width * (replicas - 1) / replicas
    assert replicas > 1 and found["reduce"]["bytes"] == pytest.approx(sent, rel=1e-12)
    assert found["reduce"]["seconds"] == pytest.approx(
        sent / (recipe.cluster.gpu.network_gb_per_second * 1e9)
    )


def test_bubble_and_the_forward_pass_to_select_by():
    few, many = (
        sizing(on_paper("70b", 64, f"training.global_batch_size={size}"), 64, 8) for size in (64, 512)
    )
    assert (few["bubble"], many["bubble"]) == (3 / 4, 3 / 32)
    assert any("bubble adds 75%" in line for line in few["advice"])
    plain = sizing(on_paper("8b", 8), 8, 8)
    exact = sizing(on_paper("8b", 8, "versions.update.selection.scope=global"), 8, 8)
    passes = plain["step"]["compute"]
    by_name = {version["name"]: version["step_seconds"] for version in exact["versions"]}
    assert by_name["reference"] == pytest.approx(plain["step"]["seconds"])
    assert by_name["update"] - by_name["reference"] == pytest.approx(passes / 3)


def test_days_gpu_hours_and_cost_follow_from_steps():
    found = sizing(on_paper("70b", 64, "cluster.gpu.price_per_hour=2.5"), 64, 8)
    (version,) = found["versions"]
    seconds = version["steps"] * version["step_seconds"]
    assert version["steps"] == -(-50_000_000_000 // (512 * 8192))
    assert version["days"] == pytest.approx(seconds / 86_400)
    assert found["total"]["cost"] == pytest.approx(seconds / 3600 * 512 * 2.5)
    assert found["tokens_per_second"] * found["step"]["seconds"] == pytest.approx(512 * 8192)


def test_what_this_machine_lacks_is_told_and_no_mistake(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as refused:
        load_checked(RecipeSource(LLAMA["8b"]))
    _, absent = load_on_paper(RecipeSource(LLAMA["8b"]), nodes=8, ranks_per_node=8)
    assert [problem.path for problem in absent] == [problem.path for problem in refused.value.problems]
    assert {problem.path for problem in absent} == {
        *("tokenizer.path", "model.path"),
        *(f"sources.{name}.reader.path" for name in ("medicine", "textbooks", "general")),
    }
    assert main(["check", str(LLAMA["8b"])]) == 2
    assert "which may have these: --nodes N" in capsys.readouterr().err
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump({"gpu": {"price_per_hour": 2, "mfu": 0.5}}))
    main(["check", str(LLAMA["8b"]), "--nodes", "64", "--site", str(site)])
    out = capsys.readouterr().out
    for text in (
        "64 nodes x 8 GPUs = 512 GPUs",
        "512 samples = 4,194,304 tokens",
        "fits",
        "days",
        "cost",
        "MFU 50%",
    ):
        assert text in out
    assert "Not on this machine" in out and "model.path = 'models/llama3-8b'" in out
    assert len(out.splitlines()) < 100  # 512 ranks are not listed one by one
    main(["check", str(LLAMA["8b"]), "--nodes", "64", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and len(found["absent"]) == 5 and found["sizing"]["gpus"] == 512


@pytest.mark.parametrize(
    ("overrides", "paths"),
    [
        (["training.global_batch_size=500"], ["training.global_batch_size"]),
        (["model.shape.num_layers=0"], ["model.shape.num_layers"]),
        (["parallel.tensor_parallel=3"], ["parallel"]),
        (["model.shape=null"], ["tokenizer.path", "model.path", "model.shape"]),
        (
            ["model={type: llama, num_layers: 2, hidden_size: 64, ffn_hidden_size: 64, num_attention_heads: 2, "
             "num_query_groups: 2}"],
            ["tokenizer.path"],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_refused_on_paper_too(overrides, paths):
    with pytest.raises(RecipeError) as refused:
        on_paper("8b", 64, *overrides)
    assert [problem.path for problem in refused.value.problems] == paths


def test_a_stated_shape_has_to_be_the_models(tmp_path):
    config = {
        **{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    there = [f"model.path={tmp_path}"]
    _, absent = load_on_paper(RecipeSource(LLAMA["8b"], there), nodes=8, ranks_per_node=8)
    (weights,) = [problem for problem in absent if problem.path == "model.path"]
    assert weights.remedy.startswith("has no weights")
    wrong = ["model.shape.num_layers=31", "model.shape.vocab_size=32000", "model.shape.tie_embeddings=true"]
    with pytest.raises(RecipeError) as refused:
        on_paper("8b", 8, *there, *wrong)
    assert [(problem.path, problem.remedy.split(",")[0]) for problem in refused.value.problems] == [
        ("model.shape.num_layers", "should be 32"),
        ("model.shape.vocab_size", "should be 128256"),
        ("model.shape.tie_embeddings", "should be False"),
    ]


def test_one_node_reduces_inside_and_says_so(capsys):
    found = sizing(on_paper("8b", 1), 1, 8)
    assert found["reduce"]["seconds"] == 0 and found["reduce"]["bytes"] > 0
    print_sizing(found, [])
    out = capsys.readouterr().out
    assert "inside the node" in out and "Not on this machine" not in out
