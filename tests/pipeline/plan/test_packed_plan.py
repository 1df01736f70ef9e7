"""Plans whose samples are made of whole documents: beside the stream, in mixtures, replayed, and branched off."""

import numpy as np
import pytest
from tiny import EOS

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.plan.consumption import ledger
from perdure.pipeline.plan.forecast import expected_mixture
from perdure.pipeline.plan.packing import packing_of
from perdure.pipeline.plan.plan import locate, open_plan
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.reads import documents_read
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.selection_report import label_documents
from perdure.pipeline.train.streams import read_sample
from tests.pipeline.plan.numbered import SEQ, build, labels, recipe_of

NEXT = {"packing": "next_fit", "order": "given"}
BEST = {"packing": "best_fit"}


def documents_of(data) -> list[np.ndarray]:
    from perdure.pipeline.core.shards import open_shard

    shards = [open_shard(data / f"{task:05d}") for task in range(2)]
    return [
        np.array(shard.values[shard.start(number) : shard.start(number) + length])
        for shard in shards
        for number, length in enumerate(shard.lengths)
    ]


@pytest.mark.parametrize("overlong", ["cut", "drop"])
@pytest.mark.parametrize("settings", [NEXT, BEST])
def test_an_epoch_has_every_label_once_and_no_document_in_two_samples(tmp_path, data, settings, overlong):
    plan = build(tmp_path, data, {"sources": {"a": settings | {"overlong": overlong}}})
    dataset, entry = open_dataset(tmp_path / "plan", data, {}), plan.sources["a"]
    whole = documents_of(data["a"])
    fitting = [document for document in whole if overlong == "cut" or len(document) <= SEQ]
    per_epoch = entry["samples_per_epoch"]
    seen, samples = [], {}
    for epoch in range(2):
        located = [locate(plan, index) for index in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        assert sorted(sample for *_, sample in located) == list(range(per_epoch))
        assert (located == sorted(located)) == (settings is NEXT)
    for sample in range(per_epoch):
        read = read_sample(dataset.streams["a"], sample, SEQ)
        assert read.tokens[0] == EOS and (read.tokens[1 + read.num_valid :] == EOS).all()
        assert sum(read.documents) == SEQ
        seen.append(labels(dataset, "a", sample))
        own = label_documents(dataset.streams["a"], sample, SEQ)
        assert len(own) == read.num_valid
        for number in np.unique(own):
            samples.setdefault(int(number), []).append(sample)
            assert (own == number).sum() == len(whole[number]) or len(whole[number]) > SEQ
    assert np.array_equal(np.sort(np.concatenate(seen)), np.sort(np.concatenate(fitting)))
    assert all(len(own) == 1 for number, own in samples.items() if len(whole[number]) <= SEQ)
    long = [document for document in whole if len(document) > SEQ]
    told = (len(long), sum(map(len, long)))
    assert (entry["dropped_documents"], entry["dropped_tokens"]) == (told if overlong == "drop" else (0, 0))
    assert entry["cut_documents"] == (len(long) if overlong == "cut" else 0)
    assert (entry["documents"], entry["tokens"]) == (len(fitting), sum(map(len, fitting)))
    assert documents_read(plan, tmp_path / "plan", "a", len(whole)).tolist() == [
        overlong == "cut" or len(document) <= SEQ for document in whole
    ]


def test_documents_of_a_sample_are_told_apart(tmp_path, data):
    """What opens each one is the separator before it: attention inside documents sees whole ones, and padding apart."""
    build(tmp_path, data, {"sources": {"a": NEXT | {"overlong": "drop"}}})
    stream = open_dataset(tmp_path / "plan", data, {}).streams["a"]
    for sample in range(10):
        read = read_sample(stream, sample, SEQ)
        sizes = [
            len(part)
            for part in np.split(
                read.tokens[1 : 1 + read.num_valid],
                np.flatnonzero(read.tokens[1 : 1 + read.num_valid] == EOS) + 1,
            )
        ]
        padding = SEQ - read.num_valid
        assert list(read.documents) == [*filter(None, sizes), *([padding] if padding else [])]


def test_a_plan_is_opened_as_it_was_planned_and_other_settings_are_refused(tmp_path, data):
    mixture = {"sources": {"a": BEST, "b": {}}}
    plan = build(tmp_path, data, mixture)
    assert build(tmp_path, data, mixture).hash == plan.hash == open_plan(tmp_path / "plan").hash
    for changed in ({"a": BEST | {"overlong": "drop"}, "b": {}}, {"a": {}, "b": {}}, {"a": BEST, "b": BEST}):
        with pytest.raises(PerdureError, match="planned from something else"):
            build(tmp_path, data, {"sources": changed})
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())


def test_the_stream_is_what_it_was(tmp_path, data):
    """`stream` is the default, in the same words: a plan has no other hash for naming it."""
    plain = build(tmp_path / "plain", data, {"sources": {"a": {}}})
    named = build(tmp_path / "named", data, {"sources": {"a": {"packing": "stream"}}})
    assert named.hash == plain.hash and "packing" not in plain.sources["a"]


def test_parents_packed_samples_are_replayed_as_they_were(tmp_path, data):
    """The very samples, whatever the version's own sources are packed like; and a branch reads on in them."""
    versions = {
        "v2": {
            "start": {"type": "update", "parent": "v1"},
            "tokens": SEQ * 8 * 4,
            "mixture": {
                "sources": {"b": {}},
                "replay": {"share": 0.5, "from_parents": True},
                "max_repetition": 1000,
            },
            "schedule": {"type": "constant", "max_lr": 0.001},
        },
        "v3": {
            "start": {"type": "branch", "parent": "v1", "step": 1},
            "tokens": SEQ * 8 * 2,
            "mixture": {"sources": {"a": BEST | {"overlong": "drop"}}, "max_repetition": 1000},
            "schedule": {"type": "constant", "max_lr": 0.001},
        },
    }
    recipe = recipe_of(tmp_path, {"sources": {"a": BEST | {"overlong": "drop"}}}, steps=2)
    tree = recipe.model_dump(mode="json")
    tree["versions"] |= versions
    recipe = type(recipe).model_validate(tree)
    first = build_plan(tmp_path / "v1", recipe, "v1", data, {})
    history = [(first, 16)]
    second = build_plan(tmp_path / "v2", recipe, "v2", data, {}, history)
    entry = second.sources["replay/a"]
    assert (entry["packing"], entry["overlong"]) == ("best_fit", "drop")
    forecast = expected_mixture(recipe, "v2").replay.sources["a"]  # what `check` looks at
    assert packing_of(recipe, "a", forecast) == ("best_fit", "drop")
    assert entry["samples_per_epoch"] == min(16, first.sources["a"]["samples_per_epoch"])
    assert build_plan(tmp_path / "v2", recipe, "v2", data, {}, history).hash == second.hash
    streams = {name: open_dataset(tmp_path / name, data, {}).streams for name in ("v1", "v2")}
    trained = {
        read_sample(streams["v1"]["a"], locate(first, index)[2], SEQ).tokens.tobytes() for index in range(16)
    }
    for index in range(second.num_samples):
        key, _, sample = locate(second, index)
        if key == "replay/a":
            assert read_sample(streams["v2"][key], sample, SEQ).tokens.tobytes() in trained
    branch = build_plan(tmp_path / "v3", recipe, "v3", data, {}, [(first, 8)])
    assert branch.first_sample == 8 and branch.sources == first.sources
    told = ledger([(second, second.num_samples), *history])
    assert told["a"]["total"] == first.sources["a"]["tokens"]
    assert told["a"]["consumed"] + told["a"]["remaining"] == told["a"]["total"]
    assert 0 < told["a"]["replayed"] <= told["a"]["total"] * 2


def test_a_source_without_a_document_that_fits_is_refused(tmp_path, data):
    mixture = {"sources": {"a": BEST | {"overlong": "drop"}}}
    with pytest.raises(PerdureError, match=r"no document of a fits into training\.seq_length = 1"):
        build(tmp_path, data, mixture, training__seq_length=1, training__global_batch_size=8)
    assert not (tmp_path / "plan").exists()
