"""Leaked evaluation texts: planted ones are found and named, clean ones are not flagged."""

import json

import numpy as np
import pytest
from every_script import contaminated
from languages import LANGUAGES
from tiny import tiny_recipe, write_data
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate import contamination
from perdure.pipeline.evaluate.documents import heldout as measured_part
from tests.pipeline.evaluate.leaked import PLANTED, PROBES, SHORT, VOCABULARY, documents, found_for


def test_a_planted_passage_is_found_and_named_and_a_clean_one_is_not(corpus, said):
    contamination.look_for_leaks(*corpus)
    found = found_for(corpus[0], corpus[1])
    assert found["n_grams"] == 13 and found["min_words"] == 8
    probes = found["probes"]["facts.jsonl"]
    assert {key: probes[key] for key in ("items", "too_short", "leaked", "share")} == {
        "items": 5,
        "too_short": 1,
        "leaked": 2,
        "share": 0.4,
    }
    assert probes["found"] == [
        {
            "item": "leaked",
            "source": "a",
            "document": "train/1/20",
            "words": " ".join(PLANTED.split()[:13]),
        },
        {"item": "short", "source": "a", "document": "train/1/21", "words": SHORT},
    ]
    # Of the held-out documents of a, the third has a near duplicate in b.
    heldout = found["heldout"]["a"]
    assert (heldout["items"], heldout["leaked"], heldout["share"]) == (5, 1, 0.2)
    assert [(entry["item"], entry["source"], entry["document"]) for entry in heldout["found"]] == [
        ("heldout/0/2", "b", "train/0/20")
    ]
    assert found["heldout"]["b"]["leaked"] == 0
    assert said == [
        "contamination: 2 of 5 items of facts.jsonl share 13 words with training data; first leaked in a "
        "(train/1/20)\ncontamination: 1 of 5 held-out documents of a share 13 words with training data; first "
        "heldout/0/2 in b (train/0/20)"
    ]


def test_a_leak_is_named_by_the_first_document_that_holds_it(corpus, tmp_path):
    """Of three shards that hold the passage, the first one; in it, the first of two documents."""
    recipe, data, tokenizer = corpus
    shards = [documents(1), documents(2, PLANTED, PLANTED), documents(3, PLANTED), documents(4, PLANTED)]
    data["a"] = write_data(tmp_path / "data/a2", shards, documents(7)[:5], len(VOCABULARY))
    contamination.look_for_leaks(recipe, data, tokenizer)
    first = found_for(recipe, data)["probes"]["facts.jsonl"]["found"][0]
    assert (first["item"], first["source"], first["document"]) == ("leaked", "a", "train/1/20")


def test_an_item_that_leaked_into_several_sources_leaked_once(corpus, tmp_path, said):
    """Every probe stands in three sources: all of them leaked, which is a share of 1, and each place is named."""
    recipe, data, tokenizer = corpus
    recipe.evaluation.probes[0].write_text("".join(json.dumps(item) + "\n" for item in PROBES[:1]))
    for name in "cde":
        data[name] = write_data(tmp_path / "data" / name, [documents(1, PLANTED)], [], len(VOCABULARY))
    heldout = documents(7)[:5]
    data["c"] = write_data(tmp_path / "data/c2", [heldout], [], len(VOCABULARY))
    contamination.look_for_leaks(recipe, data, tokenizer)
    found = found_for(recipe, data)
    probes, documents_of_a = found["probes"]["facts.jsonl"], found["heldout"]["a"]
    assert [probes[key] for key in ("items", "leaked", "share")] == [1, 1, 1.0]
    assert [entry["source"] for entry in probes["found"]] == ["a", "d", "e"]
    assert [documents_of_a[key] for key in ("items", "leaked", "share")] == [5, 5, 1.0]
    assert len(documents_of_a["found"]) == 6  # the third stands in two sources
    assert "1 of 1 items of facts.jsonl" in said[0] and "5 of 5 held-out documents of a" in said[0]


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_in_every_script_planted_text_is_found_and_everyday_phrases_are_not(tmp_path, language):
    evaluation, unrelated, planted = contaminated(language)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    alphabet = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    every_byte = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    every_byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    every_byte.decoder = decoders.ByteLevel()
    every_byte.save(str(tokenizer / "tokenizer.json"))
    facts = {"eos_id": 0, "vocab_size": len(alphabet), "tokenizer_hash": "test"}
    finish(tokenizer, facts | {"parse_special_tokens": False})

    def found_in(name, texts):
        """Of ten held-out documents, which is found in which of the training documents of another source."""
        tokens = [
            [np.array([*every_byte.encode(text).ids, 0], np.uint16) for text in part]
            for part in (evaluation[:10], unrelated[20:50], texts)
        ]
        folder, size = tmp_path / name, len(alphabet)
        data = {
            "a": write_data(folder / "data/a", [tokens[1]], tokens[0], size),
            "b": write_data(folder / "data/b", [tokens[2]], [], size),
        }
        recipe = tiny_recipe(folder, evaluation__max_tokens=1_000_000)
        contamination.look_for_leaks(recipe, data, tokenizer)
        found = found_for(recipe, data)["heldout"]["a"]
        assert (found["items"], found["too_short"]) == (10, 0)
        return [(entry["item"], entry["source"], entry["document"]) for entry in found["found"]]

    assert found_in("unrelated", unrelated[:10]) == []
    assert found_in("planted", planted[:10]) == [
        (f"heldout/0/{number}", "b", f"train/0/{number}") for number in range(10)
    ]


def test_only_documents_that_are_measured_are_looked_for(corpus):
    recipe, data, tokenizer = corpus
    few = tiny_recipe(recipe.directory, evaluation__max_tokens=3)
    contamination.look_for_leaks(few, data, tokenizer)
    assert 1 <= found_for(few, data)["heldout"]["a"]["items"] <= 3
    assert found_for(recipe, data) is None  # another question has no answer yet
    # Nor has another sample of as many tokens: that of an earlier release.
    path = recipe.directory / "contamination.json"
    old = read_json(path)
    del old["identity"]["sampled"]
    write_json(path, old)
    assert found_for(few, data) is None
    contamination.look_for_leaks(few, data, tokenizer)
    assert found_for(few, data) is not None


def test_it_can_be_switched_off(corpus):
    recipe, data, tokenizer = corpus
    off = tiny_recipe(recipe.directory, evaluation__contamination=None)
    contamination.look_for_leaks(off, data, tokenizer)
    assert not (recipe.directory / "contamination.json").exists()
    assert found_for(off, data) is None


def test_a_missing_file_of_probes_is_one_line(corpus):
    recipe, data, tokenizer = corpus
    recipe.evaluation.probes[0].unlink()
    with pytest.raises(PerdureError, match=r"facts.jsonl: no such file of probes; restore it"):
        contamination.look_for_leaks(recipe, data, tokenizer)


def test_all_documents_that_a_part_is_measured_on_are_looked_for(tmp_path, corpus):
    """Those of a topic, all of them, and those of the sample of the whole source."""
    recipe, data, tokenizer = corpus
    heldout = documents(7)[:6]
    near = np.concatenate([heldout[5][3:30], documents(9)[0]])
    topics = {"heldout": ["arts", "arts", "arts", "science", "science", "science"]}
    data["a"] = write_data(
        tmp_path / "data/parts",
        [documents(1)],
        heldout,
        len(VOCABULARY),
        label=lambda split, task, number: {"topic": topics.get(split, ["arts"] * 99)[number]},
    )
    data["b"] = write_data(tmp_path / "data/near", [[*documents(3), near]], documents(8)[:4], len(VOCABULARY))
    mixture = {"sources": {"b": {}}, "replay": {"share": 0.1, "sources": {"a/science": {}, "a/none": {}}}}
    recipe = tiny_recipe(tmp_path, evaluation__max_tokens=125, versions__v1__mixture=mixture)
    contamination.look_for_leaks(recipe, data, tokenizer)
    found = found_for(recipe, data)["heldout"]
    of_a, of_b = (measured_part(data[name], name, 125).documents for name in "ab")
    assert {domain: (entry["items"], entry["leaked"]) for domain, entry in found.items()} == {
        "a": (len(of_a), int(5 in of_a["sequence"].to_pylist())),
        "a/science": (3, 1),
        "b": (len(of_b), 0),
    }
    assert found["a/science"]["found"][0]["item"] == "heldout/0/5"
    # An answer from before parts were looked at is none for a recipe with parts.
    path = recipe.directory / "contamination.json"
    old = read_json(path)
    del old["identity"]["domains"]
    path.write_text(json.dumps(old))
    assert found_for(recipe, data) is None
    assert found_for(tiny_recipe(tmp_path, evaluation__max_tokens=125), data) is not None
