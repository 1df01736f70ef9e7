"""The held-out split: stable, shared by sources, never empty."""

import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.stage import run_data
from tests.pipeline.data.made import counts, documents


def test_the_split_is_stable_and_shared_by_sources(make_recipe, texts, tmp_path):
    small = documents(run_data(make_recipe({"a": texts[:40]}, out=tmp_path / "1", tasks=1))["a"])
    both = run_data(make_recipe({"a": texts, "b": texts[20:]}, out=tmp_path / "2", tasks=3))
    sides: dict[str, set] = {}
    for row in [*small, *documents(both["a"]), *documents(both["b"])]:
        sides.setdefault(row["text"], set()).add(row["split"])
    assert len(sides) == 60 and all(len(side) == 1 for side in sides.values())


def test_what_one_source_holds_out_no_other_trains_on(make_recipe, texts):
    recipe = make_recipe({"a": texts, "b": texts})
    sources = recipe.sources | {"b": recipe.sources["b"].model_copy(update={"heldout_fraction": 0.4})}
    found = run_data(recipe.model_copy(update={"sources": sources}))
    splits = {
        name: {
            split: {row["text"] for row in documents(path) if row["split"] == split}
            for split in ("train", "heldout")
        }
        for name, path in found.items()
    }
    assert not splits["a"]["train"] & splits["b"]["heldout"]
    assert splits["a"]["heldout"] < splits["b"]["heldout"] and splits["a"]["train"] == splits["b"]["train"]
    reserved = len(splits["b"]["heldout"]) - len(splits["a"]["heldout"])
    assert counts(found["a"])["documents"] == {
        "in": 60,
        "dropped": {"heldout_elsewhere": reserved},
        "out": 60 - reserved,
    }


@pytest.mark.parametrize(
    ("fraction", "split", "remedy"), [(1e-9, "heldout", "raise"), (1 - 1e-9, "train", "lower")]
)
def test_an_empty_split_is_refused(make_recipe, texts, fraction, split, remedy):
    recipe = make_recipe({"news": texts, "other": texts}, heldout_fraction=fraction)
    with pytest.raises(
        PerdureError, match=f"sources.news: none of its 60 .* {split} split; {remedy} sources.news.held"
    ):
        run_data(recipe)
