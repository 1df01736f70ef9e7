"""What each artefact of the data stage depends on: every field that decides it changes its name, and no other does."""

import pytest

from perdure.pipeline.data import identity
from perdure.pipeline.recipe import Recipe
from tests.pipeline.data.texts import write_jsonl

FACTS = {"tokenizer_hash": "t", "eos_id": 0, "parse_special_tokens": False}
KINDS = ("clean", "tokenizer", "data", "topics", "subset")


@pytest.fixture
def recipe(make_recipe, texts, tmp_path):
    """Two sources, of which `a` is labelled and cut down to a subset."""
    sample = write_jsonl(tmp_path / "sample.jsonl", [{"text": text} for text in texts[:5]])
    subset = {"type": "dsir", "target": str(sample), "tokens": 1000}
    made = make_recipe({"a": texts[:30], "b": texts[30:]}).model_dump(mode="json")
    made["sources"]["a"] |= {"subset": subset, "topics": {"type": "cluster", "num_clusters": 2}}
    made["tokenizer"]["sources"] = ["a"]
    return made


def described(tree: dict, facts: dict = FACTS) -> dict[str, object]:
    """What source `a`'s artefacts, and the tokenizer, depend on."""
    recipe = Recipe.model_validate(tree)
    clean = identity.clean_inputs(recipe)
    return {
        "clean": clean["a"],
        "tokenizer": identity.tokenizer_inputs(recipe, clean),
        "data": identity.data_inputs(recipe, "a", clean, facts),
        "topics": identity.part_inputs(recipe, "a", "topics", clean),
        "subset": identity.subset_inputs(recipe, "a", clean, facts),
    }


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        ("sources.a.clean", [{"type": "exact_dedup"}], KINDS),
        ("sources.a.reader.text_field", "id", KINDS),
        ("data.tasks", 3, KINDS),
        # What another source holds out is reserved in this one, from the tokenizer's and the subset's samples too.
        ("sources.b.heldout_fraction", 0.4, ("tokenizer", "data", "subset")),
        ("sources.a.heldout_fraction", 0.1, ("data",)),
        ("seed", 8, ("data", "subset")),
        ("sources.a.topics.num_clusters", 3, ("data", "topics")),
        ("sources.a.subset.tokens", 900, ("data", "subset")),
        ("tokenizer.vocab_size", 500, ("tokenizer",)),
        ("sources.b.clean", [{"type": "exact_dedup"}], ()),
        ("data.workers", 1, ()),
        ("training.seq_length", 32, ()),
    ],
)
def test_what_decides_an_artefact_is_part_of_its_name(recipe, path, value, changed):
    before, tree = described(recipe), recipe
    *parents, last = path.split(".")
    for part in parents:
        tree = tree[part]
    tree[last] = value
    after = described(recipe)
    assert tuple(kind for kind in KINDS if before[kind] != after[kind]) == changed


def test_what_other_sources_hold_out_decides_shards_without_a_subset_too(recipe):
    recipe["sources"]["a"] |= {"subset": None, "topics": None}
    found = []
    for fraction in (0.2, 0.4):
        recipe["sources"]["b"]["heldout_fraction"] = fraction
        made = Recipe.model_validate(recipe)
        found.append(identity.data_inputs(made, "a", identity.clean_inputs(made), FACTS))
    assert found[0] != found[1] == found[0] | {"reserved_fraction": 0.4}


@pytest.mark.parametrize("key", FACTS)
def test_so_is_the_tokenizer_of_what_is_made_of_tokens(recipe, key):
    before, after = described(recipe), described(recipe, FACTS | {key: "other"})
    changed = {kind for kind in KINDS if before[kind] != after[kind]}
    assert changed == ({"data"} if key == "eos_id" else {"data", "subset"})
