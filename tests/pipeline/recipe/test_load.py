"""Reading recipes: `extends:`, `--set`, paths."""

import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from perdure.pipeline.recipe import RecipeSource, load_recipe
from perdure.pipeline.recipe.load import read_tree, structural_problems
from tests.pipeline.recipe.written import refused, write


def test_paths_begin_at_home_wherever_they_stand(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = write(tmp_path / "recipe.yaml", tree)
    reader = "sources.a.reader={type: jsonl, path: ~/corpus}"
    recipe = load_recipe(path, [reader, "evaluation.probes=[~/facts.jsonl]"], out=Path("~/runs/x"))
    assert recipe.directory == Path("/home/me/runs/x")
    assert recipe.sources["a"].reader.path == Path("/home/me/corpus")
    assert list(recipe.evaluation.probes) == [Path("/home/me/facts.jsonl")]
    selection = "versions.v1.selection={k: 0.5, reference: ~/models/small}"
    assert load_recipe(path, [selection]).versions["v1"].selection.reference == "/home/me/models/small"
    setup = load_recipe(path, ["cluster.setup=~/bin/fetch https://a//b"]).cluster.setup
    assert setup == "~/bin/fetch https://a//b"  # a shell reads it
    assert load_recipe(path, ["out=a~/b"]).directory == Path("a~/b")


def test_yaml_merges(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: {b: &b {x: 1, y: 1}}\nc: {d: {e: &e {<<: *b, y: 2}}}\nf: {<<: *e, z: 3}\n")
    assert read_tree(RecipeSource(path))["f"] == {"x": 1, "y": 2, "z": 3}


def test_overrides_reach_any_depth_and_are_yaml(tmp_path, tree):
    path = write(tmp_path / "r.yaml", tree)
    recipe = load_recipe(
        path,
        [
            "training.seq_length=64",
            "versions.v1.mixture.sources.a.order=given",
            "versions.v1.schedule.max_lr=3e-4",
        ],
    )
    assert recipe.training.seq_length == 64
    assert recipe.versions["v1"].mixture.sources["a"].order == "given"
    assert recipe.versions["v1"].mixture.sources["a"].weight == 0.7
    assert (
        recipe.versions["v1"].schedule.max_lr == 3e-4
    )  # PyYAML reads `3e-4` as text; the type makes it a number


def test_an_override_with_another_type_replaces_the_section(tmp_path, tree):
    schedule = "{type: infinite, max_lr: 1, constant_lr: .5, min_lr: .1}"
    recipe = load_recipe(write(tmp_path / "r.yaml", tree), [f"versions.v1.schedule={schedule}"])
    assert recipe.versions["v1"].schedule.type == "infinite"


def test_an_override_with_a_colon_replaces_what_stands_there(tmp_path, tree):
    tree["versions"]["v1"]["mixture"]["sources"] = {"a": {"weight": 3}, "b": {"order": "given"}}
    path = write(tmp_path / "r.yaml", tree)
    sources = load_recipe(path, ["versions.v1.mixture.sources:={a: {}}"]).versions["v1"].mixture.sources
    assert list(sources) == ["a"] and sources["a"].weight == 1.0
    merged = load_recipe(path, ["versions.v1.mixture.sources={a: {}}"]).versions["v1"].mixture.sources
    assert list(merged) == ["a", "b"] and merged["a"].weight == 3


NAMES = st.sampled_from(["a", "b", "c", "sources", "0", "1"])
TREES = st.recursive(
    st.sampled_from([0, 1, "", "x", None, True]),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    tree=st.dictionaries(NAMES, TREES, max_size=3), names=st.lists(NAMES, min_size=1, max_size=3), value=TREES
)
def test_what_was_replaced_is_the_value_and_all_else_stays(tmp_path_factory, tree, names, value):
    def at(node, names):
        for name in names:
            known = isinstance(node, list) and name.isdigit() and int(name) < len(node)
            node = node[int(name)] if known else node.get(name) if isinstance(node, dict) else None
        return node

    def without(node, names):
        """The tree with a mark in the place, and with what is a mapping there now as one that was there before."""
        name, *rest = names
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            return [
                without(n, rest) if rest and i == int(name) else "mark" if i == int(name) else n
                for i, n in enumerate(node)
            ]
        node = node if isinstance(node, dict) else {}
        return node | {name: without(node.get(name), rest) if rest else "mark"}

    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(json.dumps(tree))
    sources = tree["sources"] if isinstance(tree.get("sources"), dict) else {}
    if names[0] == "sources" and len(names) > 2 and names[1] not in sources:
        assert refused(path, f"{'.'.join(names)}:=1")[0].remedy.startswith("no such source")
        return
    found = read_tree(RecipeSource(path, [f"{'.'.join(names)}:={json.dumps(value)}"]))
    assert at(found, names) == value
    assert without(found, names) == without(tree, names)
    assert list(found) == list(without(tree, names))  # the order of sources means something


@pytest.mark.parametrize("override", [":=1", "=1", "a", "a.:=1", "a..b:=1", "a..b=1", ".a=1", "a.=1"])
def test_an_override_without_a_field_says_how_it_reads(tmp_path, tree, override):
    (problem,) = refused(write(tmp_path / "r.yaml", tree), override)
    assert problem.path == "--set" and problem.value == override
    assert problem.remedy == "should read path.to.field=value, or path.to.field:=value to replace a mapping"


def test_what_replaces_is_checked_like_the_rest(tmp_path, tree):
    path = write(tmp_path / "r.yaml", tree)
    missing = {problem.path for problem in refused(path, "training:={seq_length: 64}")}
    assert "training.global_batch_size" in missing and "training.seq_length" not in missing
    (problem,) = refused(path, "versions.v2.mixture:={}")
    assert problem.remedy.startswith("no such version")
    assert "quotes" in refused(path, "name:=2024-01-01")[0].remedy


def test_extends_merges_mappings_and_chains(tmp_path, tree):
    write(tmp_path / "base.yaml", tree)
    write(
        tmp_path / "middle.yaml", {"extends": "base.yaml", "training": {"seq_length": 16}, "name": "middle"}
    )
    (tmp_path / "sub").mkdir()
    write(
        tmp_path / "sub" / "leaf.yaml",
        {
            "extends": "../middle.yaml",
            "tokenizer": {"type": "sentencepiece", "path": "x.model"},
            "name": "leaf",
        },
    )
    recipe = load_recipe(tmp_path / "sub" / "leaf.yaml")
    assert recipe.name == "leaf"
    assert recipe.training.seq_length == 16
    assert recipe.training.global_batch_size == 8
    assert recipe.tokenizer.model_dump(mode="json") == {"type": "sentencepiece", "path": "x.model"}


@pytest.mark.parametrize(
    "over, order",
    [
        ({"b": {}, "a": {}}, ["b", "a", "c"]),
        ({"c": {}, "a": {}}, ["c", "b", "a"]),
        ({"b": {"weight": 2}}, ["a", "b", "c"]),  # a weight alone moves nothing
        ({"d": {}, "b": {}}, ["a", "d", "c", "b"]),
    ],
)
def test_sources_come_in_the_order_of_the_recipe_that_names_them_last(tmp_path, tree, over, order):
    mixture = tree["versions"]["v1"]["mixture"]
    mixture["sources"] = {name: {"weight": 3} for name in "abc"}
    write(tmp_path / "base.yaml", tree)
    child = {"extends": "base.yaml", "versions": {"v1": {"mixture": {"sources": over}}}}
    extended = load_recipe(write(tmp_path / "child.yaml", child))
    override = f"versions.v1.mixture.sources={json.dumps(over)}"
    for recipe in (extended, load_recipe(tmp_path / "base.yaml", [override])):
        sources = recipe.versions["v1"].mixture.sources
        assert list(sources) == order
        assert all(sources[name].weight == 3 for name in "ac")


def test_extending_in_a_circle_is_refused(tmp_path, tree):
    write(tmp_path / "one.yaml", {"extends": "two.yaml"})
    write(tmp_path / "two.yaml", {"extends": "one.yaml"})
    assert refused(tmp_path / "one.yaml")[0].remedy == "a recipe cannot extend itself"


def test_unreadable_files_are_refused(tmp_path):
    assert "No such file" in refused(tmp_path / "gone.yaml")[0].remedy
    assert "directory" in refused(tmp_path)[0].remedy
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe")
    assert refused(tmp_path / "r.yaml")[0].remedy == "cannot be read: not UTF-8 text"


@pytest.mark.parametrize("override", ["training.seq_length", "=3", "training.seq_length=[1"])
def test_malformed_overrides_are_refused(tmp_path, tree, override):
    assert "should" in refused(write(tmp_path / "r.yaml", tree), override)[0].remedy


class Union(BaseModel):
    """A field that is a word or a list of words."""

    field: Literal["a"] | tuple[str, ...]


def test_the_member_of_a_union_is_no_key():
    problems = structural_problems({"field": ["x", 2]}, Union)
    assert {problem.path: problem.value for problem in problems} == {"field": ["x", 2], "field.1": 2}


def test_a_mistake_that_a_merge_inherits_is_told_in_words(tree):
    versions = tree["versions"]
    versions["v1"]["schedule"] = {"type": "cosinus"}
    versions["merged"] = {"start": {"type": "merge", "weights": {"v1": 1.0}}, "tokens": 0}
    found = {problem.path: problem for problem in structural_problems(tree)}
    for name in ("v1", "merged"):
        problem = found[f"versions.{name}.schedule.type"]
        assert problem.value == "cosinus" and problem.remedy.startswith("should be one of")
