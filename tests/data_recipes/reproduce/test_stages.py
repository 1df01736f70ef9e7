"""What is said of the versions of stages.yaml, from a report made by hand; and that the recipe has those versions."""

from pathlib import Path

import pytest

from perdure.data_recipes.reproduce import stages
from perdure.pipeline.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "data_recipes"


def made_up(plain: float) -> dict:
    """Chats lose `plain` in the plain update, a tenth of that in the others; all else stays as it is."""
    names = [*stages.PATH, *stages.ENDS]
    losses = {name: [2.0] * 8 for name in stages.MEASURED}
    losses["chats"] = [9.0, 5.0, 5.0, 1.0, 1.0, 1.0 + plain, 1.0 + plain / 10, 1.0 + plain / 10]
    losses["tests"] = [5.0] * 5 + [3.0, 3.1, 4.0]
    return {
        "versions": [{"id": name, "status": "finished"} for name in names],
        "abilities": [{"name": name, "values": values, "left": [1.0] * 8} for name, values in losses.items()],
    }


def test_claims_compare_with_the_version_before_the_last_update():
    found = {row[0]: row[-1] for row in stages.claim_rows([made_up(1.0), made_up(-1.0)])}
    assert found["an update without replay costs the instructions (chats)"] == "in 1 of 2 seeds"
    assert found["instructing costs what was known (prose)"] == "not reproduced"
    assert found["a quarter of replay prevents most of that of chats"] == "in 1 of 2 seeds"
    assert found["a quarter of replay keeps nine tenths of what is learned"] == "reproduced"
    assert found["merging half of the way back keeps nine tenths of what is learned"] == "not reproduced"


def test_a_share_that_falls_has_risen_as_a_loss_does():
    report = made_up(1.0)
    (preferred,) = [each for each in report["abilities"] if each["name"] == stages.PREFERRED]
    preferred["values"] = [0.5] * 4 + [0.9, 0.6, 0.8, 0.7]
    assert stages.rise(report, "preferred", "plain", stages.PREFERRED) == pytest.approx(0.3)
    assert all(f">{name}<" in stages.picture([report]) for name in stages.MEASURED)


def test_the_recipe_has_the_versions_and_sources_that_are_shown(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    recipe = load_recipe(RECIPES / "stages.yaml")
    assert [*recipe.versions] == [*stages.PATH, *stages.ENDS]
    assert {*recipe.sources} == {name.removesuffix(": preferred") for name in stages.MEASURED}
