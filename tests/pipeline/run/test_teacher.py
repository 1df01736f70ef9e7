"""The version that a KL anchor names: what `inputs.json` says of it, and what is refused."""

import pytest
from tiny import tiny_llama, tiny_recipe

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.plan.lineage import models_needed
from perdure.pipeline.run.teacher import with_teacher


def recipe_of(out, **anchor):
    versions = tiny_recipe(out).model_dump(mode="json")["versions"]
    start = {"type": "update", "parent": "v1"}
    other = versions["v1"] | {"start": start, "anchor": {"type": "kl", "on": "all"} | anchor}
    return tiny_recipe(
        out, versions=versions | {"v2": other, "v3": other | {"start": start | {"parent": "v2"}}}
    )


def inputs_of(rows: int) -> dict:
    return {"vocab_size": rows, "identity": {"seed": 1}}


def test_its_weights_are_a_part_of_the_identity_and_a_parent_adds_nothing(tmp_path, monkeypatch):
    recipe = recipe_of(tmp_path, model="v1")
    export = tiny_llama(recipe.paths.version("v1").directory / "hf", 300)
    monkeypatch.setattr("perdure.pipeline.run.teacher.finished_export", lambda _recipe, name: export)
    write_json(recipe.paths.version("v1").record, {"weights_hash": "abc"})
    found = with_teacher(recipe, "v3", inputs_of(300))
    assert found["teacher_weights"] == str(export)
    assert found["identity"] == {"seed": 1, "teacher_weights": "abc"}
    assert models_needed(recipe.versions["v3"]) == ["v2", "v1"]
    with pytest.raises(PerdureError, match="v1 has a vocabulary of 300 rows, but v3 has one of 310"):
        with_teacher(recipe, "v3", inputs_of(310))
    assert with_teacher(recipe_of(tmp_path), "v3", inputs_of(300)) == inputs_of(300)


def test_it_must_be_finished(tmp_path):
    with pytest.raises(PerdureError, match="version v1 is needed, but not finished"):
        with_teacher(recipe_of(tmp_path, model="v1"), "v3", inputs_of(300))
