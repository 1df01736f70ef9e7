"""Adapters on ranks: what is frozen, what merging comes to, and the penalty of O-LoRA."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import on_rank
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.model.adapter_files import matrix_reader
from perdure.pipeline.model.adapters import initial_matrix
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.orthogonal import overlap
from perdure.pipeline.recipe import LoRA

LORA = {"type": "lora", "rank": 2, "alpha": 4}
MATRICES = [(32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64)]


def test_overlap_of_the_literature_is_exact():
    """|(1, 0) . (.6, .8)| = .6; its gradient is sign(.6) (1, 0)."""
    value, gradient = overlap(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]]))
    assert value.item() == pytest.approx(0.6) and 0.5 * value.item() == pytest.approx(0.3)
    assert gradient.tolist() == [[1.0, 0.0]]
    value, gradient = overlap(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    assert value.item() == 0.0 and gradient.tolist() == [[0.0, 0.0]]


def test_overlap_is_the_gradient_that_autograd_finds():
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randn(rows, 7, generator=generator) for rows in (5, 3))
    leaf = new.clone().requires_grad_()
    loss = sum((old[i] @ leaf[j]).abs() for i in range(5) for j in range(3))
    loss.backward()
    value, gradient = overlap(old, new)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, leaf.grad)


def test_a_starts_as_peft_initialises_it():
    """Kaiming-uniform with a = sqrt(5): uniform in +-1/sqrt(in); other keys, other numbers."""
    lora = LoRA(type="lora", rank=64, alpha=1)
    found = initial_matrix(lora, 400, "0/model.layers.0.mlp.up_proj")
    bound = 400**-0.5
    assert found.shape == (64, 400) and 0.99 * bound < found.abs().max() <= bound
    assert abs(found.mean()) < 0.01 * bound and found.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert torch.equal(found, initial_matrix(lora, 400, "0/model.layers.0.mlp.up_proj"))
    assert not torch.equal(found, initial_matrix(lora, 400, "1/model.layers.0.mlp.up_proj"))


def prepared(out, parallel=None, precision="fp32", **adapter):
    changes = {"versions__v1__adapter": LORA | adapter, "training__clip_grad": 0.0}
    changes["training__precision"] = precision
    recipe = tiny_recipe(out, parallel=parallel or {}, **changes)
    return prepare_version(recipe), layout_of(recipe).world_size


def ask(function, out, *arguments, parallel=None, precision="fp32", **adapter):
    directory, ranks = prepared(out, parallel, precision, **adapter)
    return on_rank(function, directory, *arguments, script="adapter_ranks.py", ranks=ranks)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all_linear", ["k_proj", "up_proj"]])
def test_only_the_adapter_has_buffers_moments_and_changes(tmp_path, targets):
    found = ask("frozen", tmp_path, targets=targets)
    chosen = MATRICES if targets == "all_linear" else [MATRICES[1], MATRICES[5]]
    numbers = 4 * sum(2 * (rows + columns) for rows, columns in chosen)
    assert found["moments"] == found["buffer_numbers"] == numbers
    assert len(found["buffers"]) == 4 * 2 * len(chosen) and all(".lora_" in name for name in found["buffers"])
    assert found["same"] and not any(".lora_" in name for name in found["same"])
    assert "decoder.layers.0.self_attention.linear_qkv.weight" in found["same"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parallel", "targets"),
    [
        ({}, "all_linear"),
        ({}, ["v_proj", "gate_proj"]),
        ({"tensor_parallel": 2, "sequence_parallel": True}, ["k_proj", "up_proj", "down_proj"]),
    ],
)
def test_the_merged_model_is_the_running_one(tmp_path, parallel, targets):
    found = ask("merged_beside_running", tmp_path, 3, parallel=parallel, targets=targets)
    assert found["left"] == [] and 1 < found["mean"] < 20
    assert found["gap"] < 1e-6 * max(1, found["mean"])


@pytest.mark.slow
def test_bf16_weights_are_rounded_once_as_they_are_merged(tmp_path):
    """An fp32 sum and the fp64 one round to two bf16 numbers where they lie close to the middle, and nowhere else."""
    found = ask("merged_beside_running", tmp_path, 3, precision="bf16")
    assert found["unequal"] < 1e-3


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """An earlier adapter of rank 3 on some modules."""
    out = tmp_path_factory.mktemp("earlier")
    ask("written", out / "run", out / "adapter", rank=3, targets=["q_proj", "up_proj", "down_proj"])
    file = out / "adapter" / "adapter_model.safetensors"
    generator = torch.Generator().manual_seed(3)
    save_file({name: torch.randn(t.shape, generator=generator) for name, t in load_file(file).items()}, file)
    return out / "adapter"


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    [
        {},
        {"tensor_parallel": 2},
        {"pipeline_parallel": 2},
        {"data_parallel": 2, "distributed_optimizer": False},
    ],
)
def test_the_penalty_adds_its_gradient_once_under_every_layout(tmp_path, earlier, parallel):
    told = ask("penalised", tmp_path, earlier, 0.25, tmp_path / "told", parallel=parallel)
    plain, both, weights = (
        load_file(tmp_path / "told" / name / "adapter_model.safetensors")
        for name in ("plain", "penalised", "weights")
    )
    read, touched, total = matrix_reader(earlier), 0, 0.0
    for name, gradient in both.items():
        expected = torch.zeros_like(gradient)
        old = read(name.removeprefix("base_model.model.").rpartition(".lora_")[0])
        if "lora_A" in name and old is not None:
            leaf = weights[name].clone().requires_grad_()
            (value := 0.25 * (old @ leaf.t()).abs().sum()).backward()
            expected, touched, total = leaf.grad, touched + 1, total + value.item()
        torch.testing.assert_close(gradient - plain[name], expected, rtol=1e-4, atol=1e-5)
    assert touched == 4 * 3
    assert told == pytest.approx(total, rel=1e-5) and told > 1
