"""Adapters trained for real: under every layout, interrupted, merged, exported."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from soak import often
from support import metrics, on_rank, run_versions, start_ranks, stopped_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_recipe

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.model.huggingface import tensor_files, weights_reader

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEP = 32 * 8
MIXTURE = {"sources": {"b": {}}, "max_repetition": 100}
LORA = {"type": "lora", "rank": 4, "alpha": 8}


def version(start: dict, steps: int, **changes) -> dict:
    schedule = {"type": "constant", "max_lr": 0.01, "warmup": 0}
    return {"start": start, "tokens": STEP * steps, "schedule": schedule, "mixture": MIXTURE} | changes


VERSIONS = {
    "base": version({"type": "init"}, 6, mixture={"sources": {"a": {}}, "max_repetition": 100}),
    "lora": version({"type": "update", "parent": "base"}, 10, adapter=LORA),
}
LAYOUTS = {
    "one": {},
    "tensor": {"tensor_parallel": 2},
    "sequence": {"tensor_parallel": 2, "sequence_parallel": True, "recompute": "selective"},
    "pipeline": {"pipeline_parallel": 2},
    "data": {"data_parallel": 2, "distributed_optimizer": False},
    "sharded": {
        "data_parallel": 2,
        "distributed_optimizer": True,
        "overlap_grad_reduce": True,
        "overlap_param_gather": True,
        "recompute": "full",
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The directory of a run whose base is trained."""
    out = tmp_path_factory.mktemp("base")
    run_versions(tiny_recipe(out, versions=VERSIONS), "base")
    return out


def updated(base, out, versions=VERSIONS, parallel=None):
    """A run that has the base, with its update trained."""
    shutil.copytree(base, out)
    recipe = tiny_recipe(out, versions=versions, parallel=parallel or {}, training__async_checkpoint=False)
    run_versions(recipe, *list(versions)[1:])
    return out


class Runs(dict):
    """The update by layout, trained when it is first asked for."""

    def __init__(self, base, made):
        super().__init__()
        self.base, self.made = base, made

    def __missing__(self, name):
        self[name] = updated(self.base, self.made / name, parallel=LAYOUTS[name])
        return self[name]


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    return Runs(base, tmp_path_factory.mktemp("layouts"))


def losses(run, name="lora"):
    return [line["loss"] for line in metrics(run / "versions" / name)]


def tensors(directory):
    read = weights_reader(directory)
    return {name: read(name) for name in tensor_files(directory)}


def product(adapter, name):
    """B A of a Hugging Face weight, as the adapter's files have them."""
    module = f"base_model.model.{name.removesuffix('.weight')}"
    return adapter[f"{module}.lora_B.weight"] @ adapter[f"{module}.lora_A.weight"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_agree(runs, layout):
    plain, found = (metrics(runs[name] / "versions/lora") for name in ("one", layout))
    assert len(plain) == 10
    for key, near in (("loss", {"abs": 1e-4}), ("grad_norm", {"rel": 1e-4})):
        assert [line[key] for line in found] == pytest.approx([line[key] for line in plain], **near), key
    begun, one, other = (
        read_json(runs[name] / "versions" / version / "version.json")["heldout"]
        for name, version in (("one", "base"), ("one", "lora"), (layout, "lora"))
    )
    assert other == pytest.approx(one, abs=1e-4) and other["b"] < begun["b"] - 0.05


def test_training_begins_at_the_parent_bit_for_bit(base, runs, tmp_path):
    """B is 0: the first step's loss is that of an update of all weights, which begins at the parent, too."""
    versions = VERSIONS | {"plain": version({"type": "update", "parent": "base"}, 1)}
    del versions["lora"]
    run = updated(base, tmp_path / "run", versions)
    assert losses(run, "plain") == losses(runs["one"])[:1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_export_is_the_frozen_base_plus_the_scaled_product(base, runs, name):
    before, after = tensors(base / "versions/base/hf"), tensors(runs[name] / "versions/lora/hf")
    adapter = load_file(runs[name] / "versions/lora/adapter/adapter_model.safetensors")
    assert before.keys() == after.keys()
    changed = 0
    for tensor, value in before.items():
        if "_proj" in tensor:
            torch.testing.assert_close(after[tensor], value + 2 * product(adapter, tensor), rtol=0, atol=1e-6)
            changed += 1
            assert not torch.equal(after[tensor], value)
        else:
            assert torch.equal(after[tensor], value)
    assert changed == 4 * 7 == len(adapter) / 2


@pytest.mark.parametrize("name", ["one", "sharded", "sequence", "pipeline"])
def test_peft_loads_the_adapter_and_gives_the_merged_models_logits(base, runs, name):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(1, 97).view(2, 48)
    directory = runs[name] / "versions/lora"
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(directory / "hf")(tokens).logits
        model = AutoModelForCausalLM.from_pretrained(base / "versions/base/hf")
        begun = model(tokens).logits
        running = peft.PeftModel.from_pretrained(model, str(directory / "adapter")).eval()(tokens).logits
    assert (begun - merged).abs().max() > 0.05
    assert (running - merged).abs().max() < 1e-4


def again(run, to):
    """The update as it was before its first step, beside the run that it was trained in."""
    for name in ("recipe.yaml", "inputs.json"):
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / "versions/lora" / name, to / name)
    shutil.copytree(run / "versions/lora/plan", to / "plan")
    return to


@pytest.mark.parametrize("name", ["one", "sharded"])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(runs, tmp_path, name):
    cut, ranks = again(runs[name], tmp_path / "lora"), 1 if name == "one" else 2
    assert stopped_at(cut, ranks, "trainer:train_step:8", signal.SIGKILL).returncode == -signal.SIGKILL
    outcome = start_ranks(cut, ranks)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 5" in outcome.stdout
    for file in ("hf/model.safetensors", "adapter/adapter_model.safetensors"):
        assert hash_file(cut / file) == hash_file(runs[name] / "versions/lora" / file)
    told = ("loss", "grad_norm", "selection", "lr")
    assert [[line[key] for key in told] for line in metrics(cut)] == [
        [line[key] for key in told] for line in metrics(runs[name] / "versions/lora")
    ]


@pytest.mark.parametrize("layout", often(["sequence"], ["sequence", "pipeline", "sharded"]))
def test_a_resume_under_another_layout_goes_on(runs, tmp_path, layout):
    cut = again(runs["one"], tmp_path / "lora")
    assert stopped_at(cut, 1, "trainer:train_step:8", signal.SIGKILL).returncode == -signal.SIGKILL
    shutil.copy(runs[layout] / "versions/lora/recipe.yaml", cut / "recipe.yaml")
    inputs = read_json(cut / "inputs.json")
    write_json(cut / "inputs.json", inputs | {"recipe": hash_file(cut / "recipe.yaml")})
    outcome = start_ranks(cut, 2)
    assert outcome.returncode == 0, outcome.stderr
    assert "the layout changed" in outcome.stdout
    assert [line["loss"] for line in metrics(cut)] == pytest.approx(losses(runs["one"]), abs=1e-4)


def test_checkpoints_hold_the_frozen_base_and_moments_of_the_adapter_alone(base, runs):
    """Base weights are those of the parent's export, after ten steps with weight decay."""
    found = on_rank("checkpoint_tensors", runs["one"] / "versions/lora", script="checkpoint_ranks.py")
    moments = [name for name in found["tensors"] if name.startswith("optimizer.")]
    assert moments and all(".lora_" in name for name in moments)


def test_a_second_adapter_is_kept_apart_from_the_first(runs, tmp_path):
    """O-LoRA from recipe to gradient: rows of A overlap less than without the penalty; what they are kept from is identity."""
    start = {"type": "update", "parent": "lora"}
    versions = VERSIONS | {
        "free": version(start, 6, adapter=LORA),
        "apart": version(start, 6, adapter=LORA | {"orthogonal_to": ["lora"]}),
    }
    shutil.copytree(runs["one"], out := tmp_path / "run")
    recipe = tiny_recipe(out, versions=versions, training__async_checkpoint=False)
    run_versions(recipe, "free", "apart")
    found = [
        load_file(out / "versions" / name / "adapter/adapter_model.safetensors")
        for name in ("lora", "free", "apart")
    ]
    sums = [
        sum((found[0][name] @ adapter[name].t()).abs().sum() for name in adapter if "lora_A" in name)
        for adapter in found[1:]
    ]
    assert sums[1] < 0.8 * sums[0]
    told = [line["orthogonal_penalty"] for line in metrics(out / "versions/apart")]
    assert 0 < told[-1] < 0.8 * told[0]
    assert not any("orthogonal_penalty" in line for line in metrics(out / "versions/free"))
    board = EventAccumulator(str(out / "versions/apart/tb"))
    board.Reload()
    events = board.Scalars("train/orthogonal_penalty")
    assert [event.value for event in events] == pytest.approx(told, rel=1e-6)
    inputs = read_json(out / "versions/apart/inputs.json")
    file = out / "versions/lora/adapter/adapter_model.safetensors"
    assert inputs["identity"]["adapters"] == {"lora": hash_file(file)}
    assert "adapters" not in read_json(out / "versions/free/inputs.json")


def test_an_adapter_is_held_near_its_frozen_parent_alike_under_layouts(base, runs, tmp_path):
    """A KL anchor: exactly 0 at the start, with no gradient; from the third step on it changes what is trained."""
    anchor = {"type": "kl", "on": "all", "weight": 0.5}
    start = {"type": "update", "parent": "base"}
    versions = VERSIONS | {"lora": version(start, 3, adapter=LORA, anchor=anchor)}
    held = {
        name: metrics(updated(base, tmp_path / name, versions, LAYOUTS[name]) / "versions/lora")
        for name in ("one", "tensor", "pipeline")
    }
    for name, told in held.items():
        assert len(told) == 3 and told[0]["kl"] == 0 < 1e-3 < told[1]["kl"] < told[2]["kl"], name
        for key in ("loss", "kl", "grad_norm"):
            assert [line[key] for line in told] == pytest.approx(
                [line[key] for line in held["one"]], abs=1e-5
            ), (name, key)
    free, found = losses(runs["one"])[:3], [line["loss"] for line in held["one"]]
    assert found[:2] == free[:2] and found[2] != free[2]
