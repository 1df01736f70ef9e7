"""Transformer Engine's linears and attention, by a stand-in that computes as ours do: what is called, and that checkpoints fit
both.

It shows the wiring alone. Numbers and speed of the real one are not known from here.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from gpu.layouts import SEQUENCE, TENSORS, prepared
from gpu.outcome import cut_back, mean_loss, weights
from support import on_rank, start_ranks

OURS, THEIRS = "gpu/pretended_ranks.py", "gpu/engine_ranks.py"
ENGINE = {"linears": "transformer_engine", "attention": "transformer_engine"}
LAYER = [
    "TELayerNormColumnParallelLinear",
    "TEDotProductAttention",
    "TERowParallelLinear",
    "TELayerNormColumnParallelLinear",
    "TERowParallelLinear",
]
"""Megatron's modules of a layer, in their order."""
EIGHT_BITS = {
    "model__num_layers": 4,
    "training__document_mask": True,
    "parallel__recompute": "full",
    "kernels__fp8": {"recipe": "current"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [EIGHT_BITS, SEQUENCE], ids=["fp8 recompute documents", "sequence parallel"]
)
def test_steps_by_transformer_engine_are_those_of_the_local_layers(tmp_path, changes):
    local = {key: value for key, value in changes.items() if not key.startswith("kernels")}
    version, ranks = prepared(tmp_path / "local", local)
    expected = on_rank("train", version, True, 2, script=OURS, ranks=ranks)
    version, _ = prepared(
        tmp_path / "engine", changes | {f"kernels__{key}": value for key, value in ENGINE.items()}
    )
    found = on_rank("train", version, 2, script=THEIRS, ranks=ranks)
    for step, ours in enumerate(expected[0]):
        theirs = found[0]["steps"][step]
        assert mean_loss(theirs) == pytest.approx(mean_loss(ours), rel=(5e-4, 2e-3)[step])
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-2)
    for rank in found:
        require_calls(rank["calls"], fp8="kernels__fp8" in changes)


def require_calls(calls: list[dict], fp8: bool) -> None:
    """Two steps of two micro-batches through every layer, of four the inner ones in FP8, once more where it is computed
    again."""
    layers, passes = (4, 2) if fp8 else (2, 1)
    assert len(calls) == 2 * 2 * layers * passes * len(LAYER)
    assert all(
        call["deterministic"] and call["format"] == ("thd" if fp8 else "sbhd") for call in attentions(calls)
    )
    one_pass = layers * len(LAYER)
    for number in range(2 * 2):
        batch = calls[number * one_pass * passes :][: one_pass * passes]
        order = [*range(layers), *reversed(range(layers))] if fp8 else range(layers)
        for place, layer in enumerate(order):
            own = batch[place * len(LAYER) :][: len(LAYER)]
            assert [call["module"] for call in own] == LAYER
            linears = [call for call in own if call["module"] != "TEDotProductAttention"]
            inner = "Float8CurrentScaling" if fp8 and 0 < layer < layers - 1 else None
            assert {call["fp8"] for call in linears} == {inner}
            if fp8:  # Megatron says so only then
                first = number % 2 == 0 and place < layers
                assert {call["first"] for call in linears} == {first}


DELAYED = {"recipe": "delayed", "first_last_layers_bf16": False}
SHARED = {"amax_history_len": 1024, "amax_compute_algo": "max", "format": "HYBRID", "ranks": 2}
BLOCKS = {"amax_history_len": None, "amax_compute_algo": None, "format": "E4M3", "ranks": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "capability", "name", "scales", "layers", "autocasts"),
    [
        # One FP8 context around all layers, since the real one updates scales as it ends; both ranks share largest values.
        (TENSORS | {"kernels__fp8": DELAYED}, (9, 0), "TEDelayedScaling", SHARED, range(4), 1),
        ({"kernels__fp8": {"recipe": "mxfp8"}}, (10, 0), "MXFP8BlockScaling", BLOCKS, (1, 2), 2),
    ],
    ids=["delayed", "mxfp8"],
)
def test_scales_of_fp8_reach_transformer_engine(
    tmp_path, changes, capability, name, scales, layers, autocasts
):
    chosen = {f"kernels__{key}": value for key, value in ENGINE.items()} | {"kernels__deterministic": False}
    version, ranks = prepared(tmp_path, chosen | changes | {"model__num_layers": 4})
    for found in on_rank("train", version, 1, capability, script=THEIRS, ranks=ranks):
        linears = [call for call in found["calls"] if call["module"] != "TEDotProductAttention"]
        assert len(linears) == 2 * 4 * (len(LAYER) - 1)  # two micro-batches
        for place, call in enumerate(linears):
            inside = place // (len(LAYER) - 1) % 4 in layers
            assert call["fp8"] == (name if inside else None)
            assert call["scales"] == (scales if inside else None)
        assert len({call["autocast"] for call in linears if call["fp8"]}) == 2 * autocasts


def attentions(calls: list[dict]) -> list[dict]:
    return [call for call in calls if call["module"] == "TEDotProductAttention"]


RUN = {
    "training__precision": "fp32",
    "training__loss_implementation": "chunked",
    "training__checkpoint_interval": 1,
    "training__seq_length": 16,
    "model__num_layers": 3,
    "versions__v1__tokens": 16 * 4 * 3,
    "versions__v1__keep": {"every": 1},
}


@pytest.mark.slow
def test_a_run_goes_on_by_transformer_engine_and_back(tmp_path):
    version, _ = prepared(tmp_path, RUN)
    run_on_cpu(version)
    straight = weights(version)
    assert [entry["linears"] for entry in kernels(version)] == ["local"]

    cut_back(version, 1)
    choose(version, ENGINE | {"fp8": {"recipe": "current"}})
    (calls,) = on_rank("whole", version, script=THEIRS)
    require_close(weights(version), straight)
    local, engine = kernels(version)
    assert (local["step"], local["attention"], local["fp8"]) == (0, "sdpa", None)
    assert (engine["step"], engine["attention"], engine["linears"]) == (1, *reversed(ENGINE.values()))
    assert engine["fp8"]["recipe"] == "current" and "transformer_engine" in engine["versions"]
    # FP8 in the steps alone: held-out losses and the report are of bf16, or of fp32 as here.
    computed = [call for call in calls if call["module"] != "TEDotProductAttention"]
    assert {call["fp8"] for call in computed if not call["grad"]} == {None}
    assert {call["fp8"] for call in computed if call["grad"]} == {None, "Float8CurrentScaling"}
    assert {call["grad"] for call in computed} == {True, False}

    cut_back(version, 2)
    choose(version, {})
    run_on_cpu(version)
    require_close(weights(version), straight)
    assert [(entry["step"], entry["linears"]) for entry in kernels(version)] == [
        (0, "local"),
        (1, "transformer_engine"),
        (2, "local"),
    ]


def run_on_cpu(version: Path) -> None:
    """Trains a version by the local layers to its end, in a process without Transformer Engine."""
    outcome = start_ranks(version, 1)
    assert outcome.returncode == 0, outcome.stderr


def kernels(version: Path) -> list[dict]:
    """What a version was computed with, as it recorded it, its checkpoints alike."""
    found = json.loads((version / "version.json").read_text())["kernels"]
    assert (
        found == json.loads((version / "checkpoints" / "step_000003" / "state.json").read_text())["kernels"]
    )
    return found


def require_close(found: dict, expected: dict) -> None:
    """Weights that differ by rounding: moments that were lost would move them by about the learning rate, 0.01."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4, msg=name)


def choose(version: Path, section: dict) -> None:
    """Changes a prepared version's `kernels`, as `perdure run` does with another recipe."""
    path = version / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"kernels": section}))
