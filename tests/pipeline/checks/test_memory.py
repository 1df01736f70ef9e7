"""Memory of a rank, and where ranks are placed."""

from perdure.pipeline.checks.memory import memory_per_rank
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.recipe import load_recipe
from tests.pipeline.checks.template import TEMPLATE

LARGE = ("tokenizer.vocab_size=131072",)


def test_ranks_are_placed_as_megatron_places_them():
    from megatron.core.parallel_state import RankGenerator

    parallel = ["parallel.tensor_parallel=2", "parallel.pipeline_parallel=2", "parallel.data_parallel=2"]
    layout = preview(load_recipe(TEMPLATE, parallel))["parallel"]
    assert layout["world_size"] == 8
    generator = RankGenerator(tp=2, ep=1, dp=2, pp=2, cp=1, order="tp-cp-ep-dp-pp")
    for group, axis, others in (
        ("tp", "tensor", ("pipeline", "data")),
        ("pp", "pipeline", ("tensor", "data")),
        ("dp", "data", ("tensor", "pipeline")),
    ):
        for ranks in generator.get_ranks(group):
            places = [layout["ranks"][rank] for rank in ranks]
            assert [place[axis] for place in places] == [0, 1]
            assert all(len({place[other] for place in places}) == 1 for other in others)


def test_memory_of_one_rank():
    def memory(*overrides):
        return memory_per_rank(load_recipe(TEMPLATE, overrides))

    alone = memory()
    parameters = preview(load_recipe(TEMPLATE))["model"]["parameters"]
    assert alone["parameters"] == parameters
    assert (alone["weights"], alone["gradients"], alone["optimizer"]) == (
        4 * parameters,
        4 * parameters,
        8 * parameters,
    )
    bf16 = memory("training.precision=bf16")
    assert (bf16["weights"], bf16["gradients"], bf16["optimizer"]) == (
        2 * parameters,
        4 * parameters,
        12 * parameters,
    )
    # A copy for a running average, two for Elastic Reset: of the version that keeps most.
    hooks = ["training.ema=0.9", "versions.base.reptile={interval: 5, rate: 0.1}"]
    hooks += ["versions.update.elastic_reset={interval: 5, ema: 0.9}"]
    assert [memory(*hooks[:count])["optimizer"] // parameters for count in range(4)] == [8, 12, 16, 20]
    # What an anchor pulls to, and with which strengths.
    anchors = [f"versions.update.anchor={{type: {kind}, strength: 1}}" for kind in ("l2", "fisher")]
    assert [memory(anchor)["optimizer"] // parameters for anchor in anchors] == [12, 16]
    assert memory(anchors[1], hooks[1])["optimizer"] == 16 * parameters  # of two versions
    replicas = ("parallel.data_parallel=2",)
    assert memory(*replicas)["optimizer"] == alone["optimizer"]
    assert memory(*replicas, "parallel.distributed_optimizer=true")["optimizer"] == alone["optimizer"] // 2
    for divided in ("true", "false"):
        assert memory(*replicas, f"parallel.distributed_optimizer={divided}")["save"] == 12 * parameters // 2
    # A frozen model, and its last hidden states of all its samples of a step: 8 of 256 tokens.
    held = ("versions.update.anchor={type: kl, on: all}", *replicas, "training.precision=bf16")
    assert "teacher" not in alone
    hidden = preview(load_recipe(TEMPLATE))["model"]["hidden_size"]
    assert memory(*held)["teacher"] == 2 * (parameters + 8 * 256 * hidden)
    assert memory(*held)["total"] == memory(*held[1:])["total"] + memory(*held)["teacher"]
    # 8 x 256 tokens and 4096 words: 32 MiB of logits; with 128 Ki words more than the implementations hold at a time.
    by_implementation = {
        name: memory(f"training.loss_implementation={name}")["activations"]
        for name in ("auto", "torch", "chunked", "triton")
    }
    layers_alone = by_implementation["torch"] - 8 * 2048 * 4096
    assert by_implementation["auto"] == by_implementation["chunked"] == by_implementation["torch"]
    assert by_implementation["triton"] == layers_alone + 4 * 2048 * 4096
    large = {
        name: memory(f"training.loss_implementation={name}", *LARGE)["activations"]
        for name in by_implementation
    }
    assert large["torch"] - large["auto"] == 8 * 2048 * 131_072 - (128 << 20)
    assert large["chunked"] - large["triton"] == (512 << 20) - (128 << 20)
    split = ("parallel.tensor_parallel=2", "training.loss_implementation=torch")
    saved = memory(*split)["activations"] - memory(*split, "parallel.sequence_parallel=true")["activations"]
    assert saved == 2048 * 4 * (4 * 128 // 2) * 4  # four layers
    norms = (2 * 4 + 1) * 128
    assert memory("parallel.tensor_parallel=2")["parameters"] == (parameters - norms) // 2 + norms
    layers = (parameters - 4096 * 128 - 128) // 2
    assert memory("parallel.pipeline_parallel=2")["parameters"] == layers + 4096 * 128 + 128
    assert alone["total"] == sum(alone[part] for part in ("weights", "gradients", "optimizer", "activations"))
