"""Mistakes around adapters, the memory that they save, and versions that they do not change."""

import json

import pytest
import yaml
from tiny import tiny_llama, tiny_recipe

from perdure.pipeline.checks.check import problems
from perdure.pipeline.checks.memory import adapter_memory, memory_per_rank
from perdure.pipeline.checks.preview import preview
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.data.tokenizer.train import train
from perdure.pipeline.plan.identity import deciding, deciding_fields
from perdure.pipeline.plan.lineage import models_needed
from perdure.pipeline.recipe import LoRA, load_recipe
from tests.pipeline.checks.template import TEMPLATE, found

PLAIN = "{type: lora, rank: 4, alpha: 8}"


def adapter(version="update", **fields):
    told = "".join(f", {name}: {value}" for name, value in fields.items())
    return f"versions.{version}.adapter={PLAIN[:-1]}{told}}}"


def second(start: str, *more: str) -> list[str]:
    """Overrides by which a version follows the template's `update`, which then has an adapter."""
    mixture = "{sources: {prose: {}}, max_repetition: .inf}"
    schedule = "{type: constant, max_lr: 1.0e-3}"
    own = f"{{start: {start}, tokens: 4096, mixture: {mixture}, schedule: {schedule}}}"
    return [adapter(), f"versions.second={own}", *more]


@pytest.mark.parametrize(
    ("overrides", "path", "remedy"),
    [
        ([adapter("base")], "versions.base.adapter", "`start: {type: update}`, not `init`"),
        (
            [adapter(), "versions.update.start={type: update, parent: base, moments: keep}"],
            "versions.update.start.moments",
            "should be `reset` with an adapter",
        ),
        ([adapter(dropout=0.1)], "versions.update.adapter.dropout", "would differ between layouts"),
        ([adapter(dropout=1)], "versions.update.adapter.dropout", "less than 1"),
        ([adapter(targets="[q_proj, qproj]")], "versions.update.adapter.targets.1", "down_proj"),
        ([adapter(targets="[]")], "versions.update.adapter.targets", "should not be empty"),
        (["versions.update.adapter={type: lora, rank: 4}"], "versions.update.adapter.alpha", "required"),
        (
            ["versions.update.adapter={type: lora, rank: 4, alpha: 0}"],
            "versions.update.adapter.alpha",
            "greater",
        ),
        (
            ["versions.update.adapter={type: lora, rank: -1, alpha: 1}"],
            "versions.update.adapter.rank",
            "equal to 0",
        ),
        (
            [adapter(orthogonal_to="[base]")],
            "versions.update.adapter.orthogonal_to.0",
            "has no adapter; should be a version that trained one",
        ),
        (
            [adapter(orthogonal_to="[bass]")],
            "versions.update.adapter.orthogonal_to.0",
            "did you mean `base`?",
        ),
        (
            [adapter(), "versions.update.anchor={type: l2, strength: 1}"],
            "versions.update.anchor",
            "the weights that it would hold are frozen",
        ),
        (
            [adapter(), "versions.update.anchor={type: fisher, strength: 1}"],
            "versions.update.anchor",
            "the weights that it would hold are frozen",
        ),
        (
            second("{type: branch, parent: update, step: 1}"),
            "versions.second.start",
            "hold its parent's weights and an adapter beside them",
        ),
        (
            second("{type: update, parent: update, moments: keep}"),
            "versions.second.start",
            "hold its parent's weights and an adapter beside them",
        ),
        (
            second("{type: update, parent: update}", "versions.second.anchor={type: fisher, strength: 1}"),
            "versions.second.anchor.estimate",
            "hold its parent's weights and an adapter beside them",
        ),
        (
            [adapter(), "versions.second={start: {type: average, of: update, last: 1}, tokens: 0}"],
            "versions.second.start",
            "checkpoints hold its matrices apart from the weights",
        ),
        (
            second(
                "{type: update, parent: update}",
                "versions.update.adapter.targets=[q_proj]",
                adapter("second", targets="[v_proj, up_proj]", orthogonal_to="[update]"),
            ),
            "versions.second.adapter.orthogonal_to.0",
            "shares no target with this one",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(overrides, path, remedy):
    told = {where: said for where, (_, said) in found(*overrides).items() if where.startswith(path)}
    assert len(told) == 1 and "\n" not in "".join(told.values())
    assert remedy in "".join(told.values())


@pytest.mark.parametrize(
    "overrides",
    [
        [adapter()],
        [adapter(targets="[q_proj, down_proj]")],
        second("{type: update, parent: update}", adapter("second", orthogonal_to="[update]")),
    ],
)
def test_what_is_right_is_no_problem(overrides):
    assert found(*overrides) == {}


def test_a_vocabulary_is_not_extended_by_an_adapter(tmp_path):
    """Refused once a finished parent lacks the tokens; a parent that is yet to be trained is trained with them."""
    model = tiny_llama(tmp_path / "model", 270)
    train(262, iter(["abc abc"] * 3)).save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    shared = [adapter(), f"model={{type: huggingface, path: {model}}}"]
    plain = [*shared, f"tokenizer={{type: huggingface, path: {model}}}"]
    extended = [*shared, f"tokenizer={{type: extend, path: {model}, num_tokens: 4, sources: [prose]}}"]
    recipe = load_recipe(TEMPLATE, plain, tmp_path / "out")
    parent = recipe.paths.version("base")
    parent.directory.mkdir(parents=True)
    parent.recipe.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    write_json(parent.inputs, {"version": "base"})
    assert found(*extended, out=tmp_path / "out") == {}
    finish(parent.directory, {"files": {}})
    assert found(*plain, out=tmp_path / "out") == {}
    ((path, (value, remedy)),) = found(*extended, out=tmp_path / "out").items()
    assert (path, value) == ("versions.update.adapter", "lora") and "\n" not in remedy
    assert "`base` was trained without the tokens that `tokenizer` adds" in remedy
    assert "their new rows would stay frozen" in remedy


def test_rank_0_is_the_plain_update_and_no_adapter_leaves_identities_as_they_were():
    plain, none = (
        load_recipe(TEMPLATE),
        load_recipe(TEMPLATE, ["versions.update.adapter={type: lora, rank: 0, alpha: 1}"]),
    )
    assert plain == none
    assert "adapter" not in deciding_fields(plain, "update")["version"]


def test_orthogonal_to_nothing_is_plain_lora():
    spelled = [
        adapter(),
        adapter(orthogonal_to="[]"),
        adapter(orthogonal_weight=3),
        adapter(orthogonal_weight=0, orthogonal_to="[base]"),
    ]
    recipes = [load_recipe(TEMPLATE, [one]) for one in spelled]
    told = [deciding_fields(recipe, "update")["version"] for recipe in recipes]
    assert all(one == told[0] for one in told) and told[0] == deciding(told[0])
    assert recipes[-1].versions["update"].adapter.orthogonal_to == ()
    two = load_recipe(
        TEMPLATE, second("{type: update, parent: base}", adapter("second", orthogonal_to="[update]"))
    )
    assert deciding_fields(two, "second")["version"]["adapter"]["orthogonal_weight"] == 0.5
    assert models_needed(two.versions["second"]) == ["base", "update"]


def test_scale_and_parameters_are_exact(tmp_path):
    """hidden 32, FFN 64, 32 query and 16 key or value rows, four layers: r (d_out + d_in) a matrix."""
    assert LoRA(type="lora", rank=2, alpha=4).scale == 2.0
    recipe = tiny_recipe(tmp_path)
    told = preview_of(recipe, {"rank": 3})
    matrices = [(32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64)]
    assert told["parameters"] == 4 * sum(3 * (rows + columns) for rows, columns in matrices)
    assert preview_of(recipe, {"rank": 5, "targets": ["k_proj"]})["parameters"] == 4 * 5 * (16 + 32)


def preview_of(recipe, fields):
    lora = LoRA.model_validate({"type": "lora", "alpha": 1} | fields)
    told = adapter_memory(recipe, lora)
    own, whole = told["memory_per_rank"], memory_per_rank(recipe)
    assert own["gradients"] == 4 * told["parameters"] and own["optimizer"] == 8 * told["parameters"]
    assert own["weights"] == whole["weights"] + 4 * told["parameters"]
    assert (
        told["saved"] == whole["total"] - own["total"] == 12 * whole["parameters"] - 16 * told["parameters"]
    )
    return told


def test_tensor_parallel_ranks_share_one_matrix_of_each_pair(tmp_path):
    recipe = tiny_recipe(tmp_path, parallel={"tensor_parallel": 2})
    lora = LoRA(type="lora", rank=3, alpha=1)
    columns = [(16, 32), (8, 32), (8, 32), (32, 32), (32, 32)]
    rows = [(32, 16), (32, 32)]
    own = 4 * sum(3 * (out + into) for out, into in (*columns, *rows))
    assert memory_per_rank(recipe, lora)["gradients"] == 4 * own


def test_check_tells_of_the_adapter():
    told = {version["name"]: version for version in preview(load_recipe(TEMPLATE, [adapter()]))["versions"]}
    assert told["base"]["adapter"] is None and told["update"]["adapter"]["scale"] == 2.0


def test_lineages_without_adapters_have_no_problem(tmp_path):
    assert not [problem for problem in problems(tiny_recipe(tmp_path)) if "adapter" in problem.path]
