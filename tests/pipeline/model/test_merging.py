"""Merges of Hugging Face directories: exact values, and what must not change a bit."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import tiny_llama

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.model.huggingface import copy_model, weights_hash
from perdure.pipeline.model.merging import (
    Merging,
    find_cut,
    linear,
    merge,
    merged_reader,
    rounded,
    task_arithmetic,
    ties,
)

ODD = [-0.0, 0.0, math.inf, -math.inf, math.nan, 1e-45, 1.0, -3.5]
"""Numbers that arithmetic would not keep."""


def numbers(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


def merging(directories, weights, **changes):
    exports = dict(zip("abcdef", directories))
    hashes = {name: weights_hash(path) for name, path in exports.items()}
    return Merging(exports, hashes, dict(zip(exports, weights)), **changes)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return [tiny_llama(directory / str(seed), 64, seed, num_hidden_layers=4) for seed in range(3)]


# ------------------------------------------------------------------------------------------ values


def trimmed_mean(base, parts, shares, scale, density):
    keep = max(1, int(density * base.numel()))
    cuts = [find_cut(lambda part=part: [part.double() - base.double()], keep) for part in parts]
    return ties(base, parts, shares, scale, cuts).tolist()


def test_ties_keeps_the_largest_differences_and_the_mean_of_those_that_agree():
    parts = [numbers(2, -1, 0.1, 0), numbers(-1, -3, 0.2, 4)]
    assert trimmed_mean(torch.zeros(4), parts, [1.0, 1.0], 1.0, 0.5) == [2, -2, 0, 4]


def test_ties_keeps_as_many_as_it_should_where_some_are_equal():
    assert trimmed_mean(torch.zeros(4), [torch.ones(4)], [1.0], 1.0, 0.5) == [1, 1, 0, 0]
    assert trimmed_mean(torch.zeros(3), [numbers(1, -2, 1)], [1.0], 2.0, 0.01) == [0, -4, 0]


def test_ties_weighs_versions_by_their_shares():
    # Sums 1 + 12 and 3 - 3 (which counts as positive): means (1 + 12) / 4 and 3.
    found = trimmed_mean(torch.ones(2), [numbers(2, 4), numbers(5, 0)], [1.0, 3.0], 1.0, 1.0)
    assert found == [1 + 13 / 4, 4]


@given(st.lists(st.sampled_from([0.0, -0.0, 1e-310, -1.5, 1.5, 2.5, -7.0, 1e300]), min_size=1), st.data())
def test_a_cut_keeps_the_largest_numbers(values, data):
    keep = data.draw(st.integers(1, len(values)))
    size = data.draw(st.integers(1, len(values)))
    whole = torch.tensor(values, dtype=torch.float64)
    cut = find_cut(lambda: whole.split(size), keep)
    order = sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))[:keep]
    above = (whole.abs() > cut.threshold).sum().item()
    assert cut.threshold == abs(values[order[-1]]) and above + cut.equal == keep


def test_task_arithmetic_adds_differences():
    one = numbers(1.0)
    assert task_arithmetic(one, [numbers(3.0), numbers(0.0)], [1.0, 1.0], 1.0).tolist() == [2]
    assert task_arithmetic(one, [numbers(3.0), numbers(0.0)], [1.0, 1.0], 0.5).tolist() == [1.5]


def test_a_weighted_sum_may_extrapolate():
    assert linear([numbers(1.0), numbers(3.0)], [-0.5, 1.5]).tolist() == [4]


@given(st.floats(-1e30, 1e30, allow_subnormal=True))
def test_half_precision_is_rounded_once(value):
    found = rounded(torch.tensor([value], dtype=torch.float64), torch.bfloat16)
    candidates = [
        found,
        *(torch.nextafter(found, torch.full_like(found, end)) for end in (-math.inf, math.inf)),
    ]
    exact = [abs(Fraction(float(candidate)) - Fraction(value)) for candidate in candidates]
    assert exact[0] == min(exact)


def test_rounding_twice_would_be_seen():
    # Just above the middle of two neighbours in bf16, by less than fp32 shows.
    value = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert rounded(value, torch.bfloat16).item() == 1 + 2**-7
    assert value.to(torch.bfloat16).item() == 1  # torch's own way goes by fp32


# --------------------------------------------------------------------------------------- invariants


def odd_models(directory, dtype):
    made = []
    for number in range(2):
        path = directory / str(number)
        path.mkdir()
        values = numbers(*(ODD[number:] + ODD[:number]), dtype=dtype)
        save_file({"w": values, "v": values[:4].clone().view(2, 2)}, path / "model.safetensors")
        (path / "config.json").write_text("{}")
        made.append(path)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_share_of_1_copies_bytes(tmp_path, dtype):
    models = odd_models(tmp_path, dtype)
    merge(merging(models, (1.0, 0.0)), tmp_path / "first")
    merge(merging(models, (0.0, 1.0)), tmp_path / "second")
    for path, name in zip(models, ("first", "second")):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (
            path / "model.safetensors"
        ).read_bytes()


@pytest.mark.parametrize("shares", [(0.3, 0.7), (0.1, 0.2, 0.7), (-0.4, 1.4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_merged_with_itself_is_itself(tmp_path, shares, dtype):
    model, _ = odd_models(tmp_path, dtype)
    merge(merging([model] * len(shares), shares), tmp_path / "merged")
    assert (tmp_path / "merged/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "task_arithmetic", "base": "c", "scale": 0.7},
        {"method": "ties", "base": "c", "density": 0.3},
    ],
)
def test_the_order_of_versions_is_immaterial(models, tmp_path, changes):
    shares = (0.5, 0.2, 0.3)
    one = merging(models, shares, **changes)
    order = ("b", "c", "a")
    other = Merging(
        {name: one.exports[name] for name in order},
        one.hashes,
        {name: one.weights[name] for name in order},
        **changes,
    )
    for number, entry in enumerate((one, other)):
        merge(entry, tmp_path / str(number))
    assert weights_hash(tmp_path / "0") == weights_hash(tmp_path / "1") != weights_hash(models[0])


def test_shards_and_blocks_do_not_matter(models, tmp_path, monkeypatch):
    merge(merging(models[:2], (0.25, 0.75)), tmp_path / "whole")
    trimmed = {"method": "ties", "base": "a", "density": 0.3}
    merge(merging(models[:3], (0.2, 0.5, 0.3), **trimmed), tmp_path / "trimmed")
    for number in range(2):
        copy_model(models[number], tmp_path / f"parts{number}", 5_000)
    monkeypatch.setattr("perdure.pipeline.model.merging.BLOCK", 37)
    merge(merging([tmp_path / "parts0", tmp_path / "parts1"], (0.25, 0.75)), tmp_path / "merged")
    index = json.loads((tmp_path / "merged/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    assert weights_hash(tmp_path / "merged") == weights_hash(tmp_path / "whole")
    merge(merging(models[:3], (0.2, 0.5, 0.3), **trimmed), tmp_path / "trimmed in blocks")
    assert weights_hash(tmp_path / "trimmed in blocks") == weights_hash(tmp_path / "trimmed")
    mixed = merging([tmp_path / "parts0", models[1]], (0.25, 0.75))
    merge(mixed, tmp_path / "mixed")
    assert weights_hash(tmp_path / "mixed") == weights_hash(tmp_path / "whole")


def test_the_result_is_torchs_and_loads_in_transformers(models, tmp_path):
    from transformers import LlamaForCausalLM

    merge(merging(models[:2], (0.25, 0.75)), tmp_path / "merged")
    found = LlamaForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    one, other = (load_file(path / "model.safetensors") for path in models[:2])
    for name, tensor in one.items():
        expected = (0.25 * tensor.double() + 0.75 * other[name].double()).float()
        assert torch.equal(found[name], expected), name


def test_runs_of_layers_have_their_own_shares(models):
    read = merged_reader(merging(models[:2], (0.5, 0.5), parent_share=(1.0, 0.0, 0.25), num_layers=4))
    one, other = (load_file(path / "model.safetensors") for path in models[:2])

    def share(name):
        far = (other[name] - one[name]).abs().argmax()
        a, b, found = (tensor.flatten()[far].item() for tensor in (one[name], other[name], read(name)))
        return (found - b) / (a - b)

    layers = [share(f"model.layers.{layer}.self_attn.q_proj.weight") for layer in range(4)]
    assert layers == pytest.approx([1, 1, 0, 0.25], abs=1e-5)
    assert share("model.embed_tokens.weight") == pytest.approx(0.5, abs=1e-5)
    first = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(read(first), one[first])


# ----------------------------------------------------------------------------------------- refusals


def refused(models, tmp_path) -> str:
    with pytest.raises(PerdureError) as caught:
        merge(merging(models, (0.5, 0.5)), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_models_that_cannot_be_summed_are_refused(models, tmp_path):
    tied = tiny_llama(tmp_path / "tied", 64, num_hidden_layers=4, tie_word_embeddings=True)
    assert "it ties its head to its embedding, and the other one does not" in refused(
        [models[0], tied], tmp_path
    )
    assert "it has a head of its own, and the other one does not" in refused([tied, models[0]], tmp_path)
    wide = tiny_llama(tmp_path / "wide", 64, num_hidden_layers=4, intermediate_size=48)
    assert "mlp.down_proj.weight is [16, 48], not [16, 32]" in refused([models[0], wide], tmp_path)
    deep = tiny_llama(tmp_path / "deep", 64, num_hidden_layers=5)
    assert "is in one of them alone" in refused([models[0], deep], tmp_path)
    (half := tmp_path / "half").mkdir()
    tensors = load_file(models[0] / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, half / "model.safetensors")
    assert "BF16, not F32" in refused([models[0], half], tmp_path)


def test_another_tokenizer_is_refused(models, tmp_path):
    paths = [tmp_path / str(number) for number in range(2)]
    for number, path in enumerate(paths):
        copy_model(models[number], path, 10**9)
        (path / "tokenizer.json").write_text(json.dumps({"number": number}))
    assert "its tokenizer is another one" in refused(paths, tmp_path)


def test_whole_numbers_are_refused(tmp_path):
    paths = [tmp_path / str(number) for number in range(2)]
    for path in paths:
        path.mkdir()
        save_file({"w": torch.from_numpy(np.arange(3))}, path / "model.safetensors")
    assert "w is I64; models of floating-point numbers" in refused(paths, tmp_path)
