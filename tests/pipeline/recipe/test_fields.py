"""Hints about fields that stand where they do not belong: for every field, at every wrong place."""

import re

import pytest
import yaml

from perdure.pipeline.recipe import Recipe, RecipeSource, read_tree, structural_problems
from perdure.pipeline.recipe.fields import belongs, homes
from tests.pipeline.checks.template import TEMPLATE

LEVELS = [
    "",
    "training",
    "sources.code",
    "sources.code.reader",
    "versions.base",
    "versions.base.mixture",
    "tokenizer",
    "model",
]


@pytest.mark.parametrize("level", LEVELS)
def test_every_field_at_a_wrong_level_is_answered_with_where_it_belongs(level):
    tree = read_tree(RecipeSource(TEMPLATE))
    node = tree
    for part in level.split(".") if level else []:
        node = node[part]
    node |= {field: 1 for field in homes() if field not in node}
    hinted = 0
    for problem in structural_problems(tree):
        place, _, field = problem.path.rpartition(".")
        if place != level or not problem.remedy.startswith("unknown field"):
            continue
        hinted += 1
        assert f"here; `{field}` belongs to " in problem.remedy
        for named in re.findall(r"`([^`]+)`", problem.remedy.partition("belongs to ")[2]):
            assert tuple(named.split(".")) in homes()[field]
    assert hinted > len(homes()) / 2


def test_fields_of_some_types_say_which():
    hint = belongs(["training", "where"])
    assert hint == " here; `where` belongs to `sources.<name>.reader` of type jsonl, parquet, huggingface"
    assert belongs(["sources", "web", "heldout_fracton"]) == "; did you mean `heldout_fraction`?"
    assert belongs(["training", "qqqqqqq"]) == ""


def test_homes_are_those_of_the_schema():
    """Every property of the JSON schema's definitions has one."""
    schema = Recipe.model_json_schema()
    named = {field for part in (schema, *schema["$defs"].values()) for field in part.get("properties", {})}
    assert named == homes().keys()


def test_a_field_where_it_belongs_is_no_mistake():
    assert structural_problems(yaml.safe_load(TEMPLATE.read_text())) == []
