"""Sizing takes what was measured of equal steps, says so, and takes nothing else."""

import json
from pathlib import Path

import pytest
from tiny import prepare_version, tiny_recipe

from perdure.pipeline.checks.measured import measurements
from perdure.pipeline.checks.sizing import sizing
from perdure.pipeline.cli.sizing_text import print_sizing
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.model.shape import flops_per_token, model_shape
from perdure.pipeline.recipe import Recipe, load_recipe

PEAK = 989e12
BYTES = 3 << 30


def flops(recipe: Recipe, rows: int) -> float:
    return flops_per_token(model_shape(recipe), rows, recipe.training.seq_length)


def trained(recipe: Recipe, rate: float = 1e6, steps: int = 40, **record) -> Path:
    """A version's directory as a run on GPUs leaves it: each step at a rate in tokens/s, but for the slow first ones."""
    directory = prepare_version(recipe)
    rows = read_json(directory / "inputs.json")["vocab_size"]
    world = (
        recipe.parallel.data_parallel * recipe.parallel.tensor_parallel * recipe.parallel.pipeline_parallel
    )
    lines = []
    for step in range(1, steps + 1):
        own = rate / (10 if step <= 10 else 1)
        line = {"step": step, "tokens": step * 64, "tokens_per_second": own}
        lines.append(line | {"mfu": own * flops(recipe, rows) / PEAK / world})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if record:
        write_json(directory / "version.json", record)
    return directory


def changed(recipe: Recipe, **changes) -> Recipe:
    """The same recipe in the same directory with other fields."""
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return Recipe.model_validate(tree)


@pytest.fixture
def recipe(tmp_path):
    return tiny_recipe(tmp_path / "run", training__precision="bf16")


def test_without_a_measurement_all_is_estimated_and_says_so(recipe, capsys):
    found = sizing(recipe, 1, 1)
    assert (found["speed"]["basis"], found["memory"]["basis"], found["not_used"]) == (
        "assumed",
        "estimated",
        [],
    )
    print_sizing(found, [])
    out = capsys.readouterr().out
    assert "time: estimated; MFU 40% of forward and backward passes assumed (the default" in " ".join(
        out.split()
    )
    assert "memory: estimated" in out


def test_a_step_under_the_same_layout_takes_as_long_as_it_was_measured(recipe, capsys):
    trained(recipe, device="NVIDIA H100 80GB HBM3", peak_memory_bytes=BYTES)
    found = sizing(recipe, 1, 1)
    assert found["speed"]["basis"] == "measured whole" and found["memory"]["basis"] == "measured"
    assert found["tokens_per_second"] == pytest.approx(1e6)  # of the steady steps
    assert found["memory"]["bytes"] == BYTES and found["memory"]["estimated_bytes"] != BYTES
    seconds = found["total"]["days"] * 86_400
    assert seconds == pytest.approx(found["versions"][0]["tokens"] / 1e6)
    print_sizing(found, [])
    out = " ".join(capsys.readouterr().out.split())
    assert "time: measured (version v1 of run, 2" in out and "1 x NVIDIA H100 80GB HBM3)" in out
    assert "memory 3.0 of 79.6 GiB: fits" in out and "step ~" not in out


def test_more_replicas_take_the_passes_as_measured_and_the_rest_as_estimated(tmp_path, capsys):
    one = tiny_recipe(tmp_path / "run", training__precision="bf16", parallel__distributed_optimizer=True)
    trained(one, peak_memory_bytes=BYTES)
    alone = sizing(one, 1, 1)["step"]
    recipe = changed(one, parallel__data_parallel=2)
    found = sizing(recipe, 2, 1)
    assert found["speed"]["basis"] == "measured" and found["memory"]["basis"] == "estimated"
    # Two GPUs share the batch.
    assert found["step"]["compute"] == pytest.approx(alone["compute"] / 2)
    assert found["step"]["reduce"] > 0 == alone["reduce"]
    print_sizing(found, [])
    assert "measured (version v1 of run" in " ".join(capsys.readouterr().out.split())


def test_bubble_and_reduction_are_taken_off_by_the_formulas_that_put_them_on(tmp_path):
    changes = {"parallel__pipeline_parallel": 2, "parallel__data_parallel": 2, "model__num_layers": 2}
    recipe = tiny_recipe(tmp_path / "run", training__precision="bf16", parallel__recompute=True, **changes)
    trained(recipe, rate=2e6)
    found = sizing(recipe, 2, 2)
    assert found["bubble"] > 0 and found["step"]["reduce"] > 0
    assert found["tokens_per_second"] == pytest.approx(2e6)


def test_a_stated_mfu_goes_before_and_what_was_measured_is_told(recipe):
    trained(recipe)
    found = sizing(changed(recipe, cluster={"gpu": {"mfu": 0.5}}), 1, 1)
    assert found["speed"]["mfu"] == 0.5 and found["speed"]["basis"] == "given"
    assert "of whole steps measured: version v1 of run" in found["speed"]["told"]


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"training__micro_batch_size": 4}, "micro_batch_size 2, here 4"),
        ({"training__seq_length": 16}, "seq_length 32, here 16"),
        ({"model__num_layers": 3}, "another model's shape"),
        ({"parallel__recompute": True}, "recompute none, here full"),
        ({"kernels": {"deterministic": False}}, "deterministic True, here False"),
        (
            {"kernels": {"linears": "transformer_engine", "fp8": {"recipe": "current"}}},
            "linears local, here transformer_engine",
        ),
        ({"training__loss_implementation": "torch"}, "loss_implementation triton, here torch"),
        ({"cluster": {"gpu": {"peak_tflops": 2250}}}, "another GPU: a peak of 989 TFLOP/s"),
    ],
)
def test_what_was_measured_of_other_steps_is_told_and_not_used(recipe, changes, because, capsys):
    trained(recipe)
    found = sizing(changed(recipe, **changes), 1, 1)
    assert found["speed"]["basis"] == "assumed"
    (other,) = found["not_used"]
    assert because in other["because"]
    print_sizing(found, [])
    assert "measured, and not used: version v1 of run" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "changes",
    [
        {"training__ema": 0.99},
        {"versions__v1__anchor": {"type": "kl", "on": "all"}},
        {"parallel__distributed_optimizer": True},
    ],
)
def test_memory_of_a_run_that_kept_less_is_not_taken(recipe, changes):
    trained(recipe, peak_memory_bytes=BYTES)
    found = sizing(changed(recipe, **changes), 1, 1)
    assert found["speed"]["basis"].startswith("measured") and found["memory"]["basis"] == "estimated"


def test_another_way_to_share_states_is_not_the_whole_step(recipe):
    trained(recipe)
    assert sizing(recipe, 1, 1)["speed"]["basis"] == "measured whole"
    found = sizing(changed(recipe, parallel__distributed_optimizer=True), 1, 1)
    assert found["speed"]["basis"] == "measured"


def test_of_one_day_the_measurement_that_was_named_last_holds_for_speed_and_memory(recipe, tmp_path):
    trained(recipe, rate=2e6, peak_memory_bytes=BYTES)
    (own,) = measurements(recipe)
    entry = {
        "model": "tiny", "date": own.date, "device": "NVIDIA H200", "tokens_per_second": 3e6, "mfu": 0.3,
        "peak_bytes": 2.0 * BYTES, "of": own.of | {"tokens": 256, "flops_per_token": 0.3 * PEAK / 3e6},
    }  # fmt: skip
    (tmp_path / "visit.json").write_text(json.dumps({"measured": [entry]}))
    found = sizing(changed(recipe, cluster={"gpu": {"measured": [str(tmp_path / "visit.json")]}}), 1, 1)
    assert found["speed"]["told"].startswith("tiny in visit.json") and found["memory"]["bytes"] == 2 * BYTES


def test_steps_that_do_more_than_passes_are_not_used(tmp_path):
    selection = {"selection": {"k": 0.6, "scope": "global", "score": "highest_loss"}}
    recipe = tiny_recipe(
        tmp_path / "run", training__precision="bf16", versions__v1__selection=selection["selection"]
    )
    trained(recipe)
    (other,) = sizing(recipe, 1, 1)["not_used"]
    assert other["because"] == "it selects over whole batches, with one more forward pass"


def test_a_few_steps_or_those_of_a_cpu_are_no_measurement(tmp_path):
    few, cpu = (tiny_recipe(tmp_path / name, training__precision="bf16") for name in ("few", "cpu"))
    trained(few, steps=19)
    directory = trained(cpu)
    lines = [
        json.loads(line) | {"mfu": None} for line in (directory / "metrics.jsonl").read_text().splitlines()
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measurements(few) == measurements(cpu) == []


def test_other_runs_and_visits_are_read_where_the_recipe_names_them(recipe, tmp_path):
    trained(recipe)
    elsewhere = changed(
        tiny_recipe(tmp_path / "new", training__precision="bf16"),
        cluster={"gpu": {"measured": [str(tmp_path / "run")]}},
    )
    assert sizing(elsewhere, 1, 1)["speed"]["told"].startswith("version v1 of run")
    (own,) = measurements(recipe)
    visit = {
        "model": "tiny", "date": "2026-05-01", "device": "NVIDIA H200", "tokens_per_second": 3e6, "mfu": 0.3,
        "peak_bytes": float(BYTES), "of": own.of | {"tokens": 256, "flops_per_token": 0.3 * PEAK / 3e6},
    }  # fmt: skip
    file = tmp_path / "visit.json"
    file.write_text(json.dumps({"measured": [visit]}))
    named = changed(elsewhere, cluster={"gpu": {"measured": [str(file)]}})
    found = sizing(named, 1, 1)
    assert found["speed"]["told"] == "tiny in visit.json, 2026-05-01, 1 x NVIDIA H200"
    assert found["memory"]["bytes"] == BYTES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is missing"),
        ("{}", "is not what `python -m perdure.kernels.visit` writes"),
        ("[1", "is not what"),
    ],
)
def test_a_path_that_is_no_measurement_is_told_in_one_line(recipe, tmp_path, text, said):
    file = tmp_path / "visit.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PerdureError, match=r"cluster\.gpu\.measured") as refused:
        sizing(changed(recipe, cluster={"gpu": {"measured": [str(file)]}}), 1, 1)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_directory_without_versions_is_told(recipe, tmp_path):
    with pytest.raises(PerdureError, match="has no versions; it should be a run's directory"):
        sizing(changed(recipe, cluster={"gpu": {"measured": [str(tmp_path)]}}), 1, 1)


def test_recorded_recipes_are_those_that_were_trained(recipe):
    """What a later edit of the recipe says does not change what was measured."""
    directory = trained(recipe)
    (found,) = measurements(changed(recipe, training__micro_batch_size=4))
    assert found.of["micro_batch_size"] == load_recipe(directory / "recipe.yaml").training.micro_batch_size
