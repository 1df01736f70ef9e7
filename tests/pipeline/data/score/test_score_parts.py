"""Scores of some documents of a source: what is read of it, and more when it is asked for."""

from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_documents, tiny_llama, tiny_recipe, write_data, write_tokenizer

from perdure.pipeline.cli.inspection.gather import of_directory
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_directory
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.data.score import scorer as scorer_module
from perdure.pipeline.data.score.losses import FORMAT, load_model, score_documents, width_batches
from perdure.pipeline.data.score.score import ReferenceModel, score_source
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.reads import documents_read
from perdure.pipeline.recipe import Selection
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.streams import read_sample

VOCAB, DOCUMENTS, TASKS = 300, 80, 2
HOW = {"label": "ref", "context": 24, "overlap": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    wider = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2}
    return tiny_llama(tmp_path_factory.mktemp("model"), VOCAB, initializer_range=0.3, **wider)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(scorer_module, "BLOCK_TOKENS", {"cpu": 100})


def make_source(out):
    """A source of two shards whose documents are shorter and longer than what the model sees."""
    tasks = [random_documents(task, DOCUMENTS // TASKS, VOCAB, longest=70) for task in range(TASKS)]
    return write_data(out / "data" / "news@12345678", tasks, random_documents(9, 3, VOCAB), VOCAB)


@pytest.fixture
def news(tmp_path):
    return make_source(tmp_path / "run")


class Here:
    """Does the tasks in this process, and counts the documents that the model sees; fails after `limit` blocks."""

    def __init__(self, monkeypatch):
        self.documents, self.tokens, self.blocks, self.limit = 0, 0, 0, None
        scored = scorer_module.score_documents

        def watch(model, documents, *rest):
            if self.blocks == self.limit:
                raise KeyboardInterrupt
            self.blocks += 1
            self.documents += len(documents)
            self.tokens += sum(map(len, documents))
            return scored(model, documents, *rest)

        monkeypatch.setattr(scorer_module, "score_documents", watch)

    @contextmanager
    def __call__(self):
        def execute(steps, tasks, directory):
            from collections import Counter

            counts = Counter()
            for rank in range(tasks):
                step = deepcopy(steps[0])
                step.run(None, rank, tasks)
                counts.update({name: stat.total for name, stat in step.stats.stats.items()})
            return [counts]

        yield execute


@pytest.fixture
def here(monkeypatch):
    return Here(monkeypatch)


def score(here, data, model, wanted=None):
    here.documents = here.tokens = here.blocks = 0
    return score_source(data, ReferenceModel(model, **HOW), workers=1, wanted=wanted, executor=here())


def lengths(data):
    return np.concatenate([open_shard(data / f"{task:05d}").lengths for task in range(TASKS)])


def values(scores, kind="ref"):
    """What each document has, in order."""
    found = []
    for task in range(TASKS):
        shard = open_shard(scores / f"{task:05d}.{kind}")
        ends = np.cumsum(shard.lengths)
        found += [shard.values[end - length : end].tolist() for end, length in zip(ends, shard.lengths)]
    return found


def some(seed, share=0.3):
    return np.random.default_rng(seed).random(DOCUMENTS) < share


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(["fp32", "bf16"]))
def test_what_a_document_gets_depends_on_no_other(model, data, precision):
    loaded = load_model(model, precision, "cpu")
    sizes = data.draw(st.lists(st.integers(1, 150), min_size=1, max_size=30))
    rng = np.random.default_rng(len(sizes))
    documents = [rng.integers(0, VOCAB, size) for size in sizes]
    chosen = data.draw(st.lists(st.sampled_from(range(len(sizes))), min_size=1, unique=True))
    whole = list(score_documents(loaded, documents, 0, 96, 24))
    part = score_documents(loaded, [documents[index] for index in chosen], 0, 96, 24)
    for index, found in zip(chosen, part, strict=True):
        assert found.tolist() == whole[index].tolist()


def test_a_windows_width_follows_from_its_own_length():
    lengths = [1, 16, 17, 40, 90, 96]
    whole = {index: width for width, batch in width_batches(lengths, 64, 96) for index in batch}
    for index, length in enumerate(lengths):
        ((width, _),) = width_batches([length], 64, 96)
        assert whole[index] == width >= length


def test_only_what_is_asked_for_is_scored_then_only_the_difference_and_in_the_end_all(
    here, news, model, tmp_path, said
):
    sizes = lengths(news)
    first, second = some(0), some(1)
    one = score(here, news, model, first)
    assert (here.documents, here.tokens) == (first.sum(), sizes[first].sum())
    assert said == [f"scoring news@12345678 with ref: {sizes[first].sum():,} of {sizes.sum():,} tokens"]
    before = hash_directory(one, hidden=False)

    assert score(here, news, model, first & second) == one and here.documents == 0
    two = score(here, news, model, second)
    assert here.documents == (second & ~first).sum()
    assert hash_directory(one, hidden=False) == before, "whoever reads the first goes on with it"
    assert score(here, news, model, first | second) == two and here.documents == 0

    whole = score(here, news, model)
    assert here.documents == (~first & ~second).sum()
    assert one.name.partition("+")[0] == two.name.partition("+")[0] == whole.name
    assert score(here, news, model, some(2)) == whole and here.documents == 0

    undisturbed = score(here, make_source(tmp_path / "again"), model)
    assert here.documents == DOCUMENTS
    assert (
        hash_directory(undisturbed, hidden=False) == hash_directory(whole, hidden=False)
        and undisturbed.name == whole.name
    )
    for path, asked in ((one, first), (two, first | second), (whole, np.ones(DOCUMENTS, bool))):
        for kind in ("ref", "ent"):
            found, expected = values(path, kind), values(whole, kind)
            assert found == [units if has else [] for units, has in zip(expected, asked)]
        rows = pq.read_table(path / "docs.parquet")
        numbers = rows["shard"].to_numpy() * (DOCUMENTS // TASKS) + rows["sequence"].to_numpy()
        assert numbers.tolist() == np.flatnonzero(asked).tolist()
        assert rows.equals(pq.read_table(whole / "docs.parquet").filter(asked))
        assert read_json(path / "manifest.json")["counts"]["tokens"] == sizes[asked].sum()


@pytest.mark.parametrize("other", ["the same", "something else", "all"])
@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_kill_loses_no_whole_block_whatever_is_asked_for_next(here, news, model, tmp_path, limit, other):
    first = some(0, 0.5)
    second = {"the same": first, "something else": some(1, 0.5), "all": None}[other]
    here.limit = limit
    with pytest.raises(KeyboardInterrupt):
        score(here, news, model, first)
    here.limit, lost = None, here.documents
    found = score(here, news, model, second)
    (left,) = [[entry.name for entry in (tmp_path / "run" / "work").iterdir()]]
    assert not left
    asked = np.ones(DOCUMENTS, bool) if second is None else second
    has = np.array([bool(units) for units in values(found)])
    assert (has >= asked).all() and here.documents == has.sum() - lost
    if other != "something else":
        undisturbed = score(here, make_source(tmp_path / "again"), model, second)
        assert (
            hash_directory(found, hidden=False) == hash_directory(undisturbed, hidden=False)
            and found.name == undisturbed.name
        )
    again = score(here, news, model, first)
    assert here.documents <= (first & ~has).sum()
    whole = values(score(here, news, model))
    for path in (found, again):
        assert all(units in ([], expected) for units, expected in zip(values(path), whole))


def test_a_damaged_part_is_named_before_it_is_used(here, news, model):
    one = score(here, news, model, some(0))
    (one / "00001.ref.bin").write_bytes((one / "00001.ref.bin").read_bytes()[:-2])
    for asked in (some(0), some(1)):
        with pytest.raises(PerdureError, match=rf"00001.ref.bin: truncated.*; delete {one.name and ''}"):
            score(here, news, model, asked)


def test_scores_of_the_format_before_are_used_where_they_are_whole(here, news, model, tmp_path):
    whole = score(here, news, model)
    older = read_json(whole / "manifest.json") | {"format": FORMAT - 1}
    from perdure.pipeline.core.hashes import hash_of

    keys = ("format", "model_hash", "data_hash", "context", "overlap", "mask", "precision")
    place = whole.with_name(f"ref@{hash_of({key: older[key] for key in keys})[:8]}")
    whole.rename(place)
    write_json(place / "manifest.json", older)
    assert score(here, news, model, some(0)) == place and here.documents == 0


@pytest.mark.parametrize("score_kind", ["excess", "intersection"])
def test_a_sample_reads_the_same_from_scores_of_its_documents_and_of_all(
    here, news, model, tmp_path, score_kind
):
    recipe = tiny_recipe(tmp_path / "run", versions__v1__tokens=32 * 8 * 2)
    mixture = {"sources": {"a": {}}, "max_repetition": 100}
    recipe = tiny_recipe(tmp_path / "run", versions__v1__tokens=32 * 8 * 2, versions__v1__mixture=mixture)
    plan = build_plan(tmp_path / "plan", recipe, "v1", {"a": news}, {})
    wanted = documents_read(plan, tmp_path / "plan", "a", DOCUMENTS)
    assert 0.2 < wanted.mean() < 0.9
    part = score(here, news, model, wanted)
    assert here.tokens == lengths(news)[wanted].sum()
    whole = score(here, make_source(tmp_path / "again"), model)
    selection = Selection(score=score_kind, reference="x", smoothing=None if score_kind == "excess" else 2)
    streams = [
        open_dataset(
            tmp_path / "plan", {"a": news}, {"a": path}, objective=LanguageModeling(selection)
        ).streams["a"]
        for path in (part, whole)
    ]
    from perdure.pipeline.plan.plan import locate

    samples = {locate(plan, index)[2] for index in range(plan.end)}
    for sample in samples:
        found, expected = (read_sample(stream, sample, 32) for stream in streams)
        assert found[1].tolist() == expected[1].tolist()
    refused = 0
    for sample in set(range(plan.sources["a"]["samples_per_epoch"])) - samples:
        try:
            found = read_sample(streams[0], sample, 32)
        except PerdureError as error:
            assert f"{part}" in str(error) and "has no scores of document" in str(error)
            refused += 1
        else:
            assert found[1].tolist() == read_sample(streams[1], sample, 32)[1].tolist()
    assert refused


def test_inspection_shows_what_is_scored(here, news, model, tmp_path):
    write_tokenizer(tmp_path / "run" / "tokenizer@test", VOCAB)
    manifest = read_json(news / "manifest.json")
    steps = {"documents": {"in": 1, "out": 1}, "words": {"in": 1, "out": 1}, "steps": []}
    extra = {"clean": "none", "topics": None, "subset": None, "counts": manifest["counts"] | steps}
    write_json(news / "manifest.json", manifest | extra)

    def found():
        (source,) = of_directory(tmp_path / "run")["sources"]
        return source

    usual = found()["sample"]
    assert usual["model"] is None
    rows = pq.read_table(news / "docs.parquet", filters=[("split", "==", "train")])["id"].to_pylist()
    without = np.array([row != usual["id"] for row in rows]) & (some(0) | some(1))
    for asked in (some(0) & without, some(1) & without):
        score(here, news, model, asked)
    (scores,) = found()["scores"]
    assert scores["model"] == "ref" and (scores["scored"], scores["of"]) == (without.sum(), DOCUMENTS)
    assert scores["documents"] == sum(scores["histogram"]) == scores["scored"]
    sample = found()["sample"]
    number = rows.index(sample["id"])
    assert without[number] and sample["model"] == "ref"
    last = max((news / "scores").iterdir(), key=lambda path: sum(map(len, values(path))))
    assert sample["losses"] == [round(unit / 1000, 3) for unit in values(last)[number]]


def test_heldout_documents_are_scored_as_those_that_train(here, model, tmp_path):
    """A source that holds the documents of its first shard out gives them the same scores, and shows them to nobody else."""
    tasks = [random_documents(task, DOCUMENTS // TASKS, VOCAB, longest=70) for task in range(TASKS)]
    data = write_data(tmp_path / "run" / "data" / "news@12345678", tasks, tasks[0], VOCAB)
    trained = score(here, data, model)
    place = score_source(data, ReferenceModel(model, **HOW), workers=1, executor=here(), split="heldout")
    assert place == data / "heldout_scores" / trained.name
    tables = [pq.read_table(scores / "docs.parquet") for scores in (trained, place)]
    assert tables[1].equals(tables[0].slice(0, len(tasks[0]))) and len(tables[0]) == DOCUMENTS
    for kind in ("ref", "ent"):
        assert values(place, kind) == values(trained, kind)[: len(tasks[0])]
    assert list((data / "scores").iterdir()) == [trained]  # which `data inspect` shows
