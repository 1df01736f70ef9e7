"""The search for leaked texts: done once, gone on with, and where the data stage runs."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from tiny import write_data

from perdure.pipeline.core.files import read_json
from perdure.pipeline.data import backends, leaks
from perdure.pipeline.evaluate import contamination
from tests.pipeline.evaluate.leaked import HALF, PLANTED, PROBES, VOCABULARY, documents, found_for, probe


def test_what_was_looked_for_is_not_looked_for_again(corpus, monkeypatch):
    recipe, data, tokenizer = corpus
    contamination.look_for_leaks(recipe, data, tokenizer)
    before = read_json(recipe.directory / "contamination.json")
    with monkeypatch.context() as patch:
        patch.setattr(leaks, "texts", lambda *_, **options: pytest.fail("looked again"))
        contamination.look_for_leaks(recipe, data, tokenizer)
    # Other probes are.
    recipe.evaluation.probes[0].write_text(json.dumps(PROBES[1]) + "\n")
    contamination.look_for_leaks(recipe, data, tokenizer)
    after = read_json(recipe.directory / "contamination.json")
    assert before["probes"]["facts.jsonl"]["leaked"] == 2 and after["probes"]["facts.jsonl"]["leaked"] == 0


@pytest.fixture
def searched(monkeypatch):
    """By source, shard and number of n-grams, every search of a shard, as it begins."""
    run, found = leaks.LeakSearch.run, []

    def noted(step, data=None, rank=0, world_size=1):
        with np.load(step.grams) as grams:
            found.append((step.data.name, rank, sum(len(grams[n]) for n in grams.files)))
        return run(step, data, rank, world_size)

    monkeypatch.setattr(leaks.LeakSearch, "run", noted)
    return found


def test_a_search_that_was_killed_goes_on_after_its_last_whole_shard(corpus, monkeypatch):
    recipe, data, tokenizer = corpus
    contamination.look_for_leaks(recipe, data, tokenizer)
    whole = (recipe.directory / "contamination.json").read_bytes()
    (recipe.directory / "contamination.json").unlink()
    for path in data["a"].glob("leaks/*/_SUCCESS"):
        path.unlink()
    texts = leaks.texts

    def killed(shard, *arguments, **options):
        for number, text in texts(shard, *arguments, **options):
            if PLANTED in text:  # in the second shard
                raise KeyboardInterrupt
            yield number, text

    monkeypatch.setattr(leaks, "texts", killed)
    with pytest.raises(KeyboardInterrupt):
        contamination.look_for_leaks(recipe, data, tokenizer)
    assert list(recipe.directory.glob("work/data.a.leaks.*/shards/00000.npz"))
    opened, open_shard = [], leaks.open_shard
    monkeypatch.setattr(leaks, "texts", texts)
    monkeypatch.setattr(leaks, "open_shard", lambda path: opened.append(path.name) or open_shard(path))
    contamination.look_for_leaks(recipe, data, tokenizer)
    assert opened == ["00001"]
    assert (recipe.directory / "contamination.json").read_bytes() == whole
    assert not list(recipe.directory.glob("work/*"))


def test_probes_that_are_added_are_all_that_is_looked_for(corpus, searched):
    recipe, data, tokenizer = corpus
    contamination.look_for_leaks(recipe, data, tokenizer)
    assert [(source, rank) for source, rank, _ in searched] == [("a", 0), ("a", 1), ("b", 0)]
    searched.clear()
    added = probe("added", HALF, "lighthouse")  # 12 words: one n-gram
    with recipe.evaluation.probes[0].open("a") as file:
        file.write(json.dumps(added) + "\n")
    contamination.look_for_leaks(recipe, data, tokenizer)
    assert searched == [("a", 0, 1), ("a", 1, 1), ("b", 0, 1)]
    found = found_for(recipe, data)["probes"]["facts.jsonl"]
    assert [(entry["item"], entry["document"]) for entry in found["found"]] == [
        ("leaked", "train/1/20"),
        ("short", "train/1/21"),
        ("added", "train/0/20"),
    ]
    # With fewer there is nothing to look for, with other data there is all.
    searched.clear()
    recipe.evaluation.probes[0].write_text(json.dumps(added) + "\n")
    contamination.look_for_leaks(recipe, data, tokenizer)
    assert found_for(recipe, data)["probes"]["facts.jsonl"]["leaked"] == 1
    other = write_data(recipe.directory / "data/c", [documents(5)], documents(8)[:4], len(VOCABULARY))
    contamination.look_for_leaks(recipe, data | {"b": other}, tokenizer)
    assert [(source, rank) for source, rank, _ in searched] == [("c", 0)]


def test_large_sources_are_searched_where_the_data_stage_runs(corpus, monkeypatch, said):
    recipe, data, tokenizer = corpus
    handed = []

    def execute(steps, tasks, directory):
        handed.append((steps[0].data.name, tasks, directory.name))
        return leaks.in_this_process(steps, tasks, directory)

    monkeypatch.setattr(contamination, "HANDED_ON", 1000)
    monkeypatch.setattr(backends, "remote_executor", lambda *_, **__: nullcontext(execute))
    contamination.look_for_leaks(recipe, data, tokenizer)
    assert handed == [("a", 2, "search")]  # b is small
    assert said[0] == "looking for leaks in a: 1.73k tokens in 2 shards"


@pytest.mark.slow
def test_workers_find_the_same(corpus, monkeypatch):
    recipe, data, tokenizer = corpus
    contamination.look_for_leaks(recipe, data, tokenizer)
    alone = (recipe.directory / "contamination.json").read_bytes()
    (recipe.directory / "contamination.json").unlink()
    for path in recipe.directory.glob("data/*/leaks/*/_SUCCESS"):
        path.unlink()
    monkeypatch.setattr(contamination, "HANDED_ON", 0)
    contamination.look_for_leaks(recipe, data, tokenizer)
    assert (recipe.directory / "contamination.json").read_bytes() == alone
