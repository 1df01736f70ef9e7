"""Recipes: every structural mistake with its path, value and remedy."""

import json
from pathlib import Path

import pytest
from tiny import tiny_recipe

from perdure.pipeline.recipe import Recipe, json_schema, load_recipe
from tests.pipeline.recipe.written import refused, write

RECIPES = sorted((Path(__file__).parents[3] / "data_recipes").rglob("*.yaml"))


def test_round_trip(tmp_path, tree):
    recipe = load_recipe(write(tmp_path / "r.yaml", tree))
    assert recipe == tiny_recipe(tmp_path / "out")
    assert recipe.directory == tmp_path / "out"
    assert load_recipe(tmp_path / "r.yaml", out=tmp_path / "x").directory == tmp_path / "x"
    assert load_recipe(tmp_path / "r.yaml", ["out=null"]).directory == Path("runs/tiny")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_we_ship_can_be_read(path):
    assert load_recipe(path).versions


def test_old_words_for_recomputation_go_on(tree):
    for old, new in ((True, "full"), (False, "none")):
        read = Recipe.model_validate(tree | {"parallel": {"recompute": old}})
        assert read == Recipe.model_validate(tree | {"parallel": {"recompute": new}})
        assert read.parallel.recompute == new
    with pytest.raises(ValueError, match="'none', 'selective' or 'full'"):
        Recipe.model_validate(tree | {"parallel": {"recompute": 1}})


def test_a_recipe_is_immutable(tree):
    with pytest.raises(ValueError, match="frozen"):
        Recipe.model_validate(tree).training.seq_length = 3


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("a: [1", "not YAML"),
        ("a: 1\na: 2", "key 'a' stands twice"),
        ("a: &a {b: 1}\nc: {<<: *a, b: 2, b: 3}", "key 'b' stands twice"),
        ("- a", "should be a mapping"),
        ("", "should be a mapping"),
        ("extends: [a]", "should be the path of another recipe"),
        ("extends: gone.yaml", "cannot be read: No such file"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path, content, remedy):
    path = tmp_path / "r.yaml"
    path.write_text(content)
    (problem,) = refused(path)
    assert remedy in problem.remedy
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    "override, remedy",
    [
        ("versions.v1.mixture.sources.a.weight=.inf", "should be a finite number"),
        ("versions.v1.schedule.max_lr=.inf", "should be a finite number"),
        ("versions.v1.mixture.max_repetition=.nan", "should be greater than 0"),
        # A bucket and its shuffle are one number of 64 bits.
        ("versions.v1.mixture.sources.a.buckets=16777217", "should be less than or equal to 16777216"),
    ],
)
def test_numbers_beyond_all_bounds_are_refused(tmp_path, tree, override, remedy):
    (problem,) = refused(write(tmp_path / "r.yaml", tree), override)
    assert problem.remedy == remedy and problem.path == override.partition("=")[0]


def test_no_limit_may_be_set_to_repetition(tmp_path, tree):
    recipe = load_recipe(write(tmp_path / "r.yaml", tree), ["versions.v1.mixture.max_repetition=.inf"])
    again = load_recipe(write(tmp_path / "again.yaml", recipe.model_dump(mode="json")))
    assert again == recipe and recipe.versions["v1"].mixture.max_repetition == float("inf")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.seq_lenght=64", ("training.seq_lenght", 64, "unknown field; did you mean `seq_length`?")),
        ("zzzz=1", ("zzzz", 1, "unknown field")),
        ("training.seq_length=many", ("training.seq_length", "many", "should be a valid integer")),
        ("training.seq_length=0", ("training.seq_length", 0, "should be greater than 0")),
        ("training.precision=fp8", ("training.precision", "fp8", "should be 'fp32' or 'bf16'")),
        ("model.type=gpt", ("model.type", "gpt", "should be one of 'llama', 'huggingface'")),
        ("model=[]", ("model", [], "should be a mapping of fields")),
        ("versions.v1.anchor=l2", ("versions.v1.anchor", "l2", "should be a mapping of fields")),
        ("versions.v1.reptile=5", ("versions.v1.reptile", 5, "should be a mapping of fields")),
        ("sources=5", ("sources", 5, "should be a mapping of fields")),
        ("versions.v1.start={type: update}", ("versions.v1.start.parent", None, "required, but missing")),
        ("versions.v1.keep=5", ("versions.v1.keep", 5, "should be")),
        ("versions.v1.keep=[3, x]", ("versions.v1.keep.1", "x", "should be a valid integer")),
        ("versions.v1.keep={every: 0}", ("versions.v1.keep.every", 0, "should be greater than 0")),
        ("versions.v1.keep={evry: 5}", ("versions.v1.keep.evry", 5, "did you mean `every`?")),
        ("versions.v1.keep={}", ("versions.v1.keep.every", None, "required, but missing")),
        ("versions.v1.elastic_reset={interval: 5}", ("versions.v1.elastic_reset.ema", None, "required")),
        ("versions.v1.reptile={interval: 5, rate: 0}", ("versions.v1.reptile.rate", 0, "greater than 0")),
        ("training.ema=1", ("training.ema", 1, "should be less than 1")),
        ("model={type: huggingface}", ("model.path", None, "required, but missing")),
        ("versions={V!: {tokens: 3}}", ("versions.V!", "V!", "lower-case letters")),
        ("tokenizer.sources=[]", ("tokenizer.sources", [], "should not be empty")),
        ("versions.v1.start.type=resume", ("versions.v1.start.type", "resume", "'init', 'update'")),
        ("sources.a.heldout_fraction=1.5", ("sources.a.heldout_fraction", 1.5, "less than 1")),
    ],
)
def test_each_mistake_has_path_value_and_remedy(tmp_path, tree, override, expected):
    path, value, remedy = expected
    problems = refused(write(tmp_path / "r.yaml", tree), override)
    found = [problem for problem in problems if problem.path == path]
    assert found, problems
    assert found[0].value == value
    assert remedy in found[0].remedy


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("versions.v1.tokens=1k", "1_000"),
        ("versions.v1.tokens=2.5M", "2_500_000"),
        ("versions.v1.tokens=1B", "1_000_000_000"),
        ("versions.v1.tokens=3 g", "3_000_000_000"),
        ("versions.v1.tokens=1.5T", "1_500_000_000_000"),
        ("versions.v1.tokens='100,000'", "100_000"),
        ("versions.v1.tokens=0.0001k", None),  # no whole number
        ("versions.v1.tokens=10%", None),
        ("sources.a.heldout_fraction=25", "0.25"),
        ("sources.a.heldout_fraction=10%", "0.1"),
    ],
)
def test_a_number_with_a_unit_is_answered_with_what_was_meant(tmp_path, tree, override, hint):
    remedy = refused(write(tmp_path / "r.yaml", tree), override)[0].remedy
    assert remedy.partition("; did you mean ")[2] == (f"{hint}?" if hint else "")


def test_whole_numbers_as_people_write_large_ones(tmp_path, tree):
    path = write(tmp_path / "recipe.yaml", tree)
    assert load_recipe(path, ["versions.v1.tokens=1e9"]).versions["v1"].tokens == 1_000_000_000
    assert "valid integer" in refused(path, "versions.v1.tokens=1.5e0")[0].remedy


def test_fields_of_what_is_not_there_are_not_set(tmp_path, tree):
    path = write(tmp_path / "recipe.yaml", tree)
    (problem,) = refused(path, "versions.v2.tokens=5")
    assert str(problem) == "versions.v2.tokens = 5: no such version; there is `v1`"
    assert "did you mean `v1`?" in str(refused(path, "versions.vv1.tokens=5")[0])
    assert "no such source" in refused(path, "sources.x.heldout_fraction=0.1")[0].remedy


def test_schema_describes_every_field(tmp_path):
    schema = json.loads(json_schema())
    assert "extends" in schema["properties"]
    sections = [schema, *schema["$defs"].values()]
    undescribed = [
        f"{section['title']}.{name}"
        for section in sections
        for name, field in section["properties"].items()
        if "description" not in field and name != "type" and "$ref" not in field
    ]
    assert undescribed == []
