"""Documents read with and without their prefixes: the same samples, the same labels, and one count of what was consumed."""

from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from tiny import EOS, tiny_recipe, write_data, write_masks

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import LABEL, PREFIX
from perdure.pipeline.plan.consumption import last_plain, ledger
from perdure.pipeline.plan.history import history
from perdure.pipeline.plan.plan import consumed_by_version, phase_of_sample, place_of
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.train.dataset import open_dataset, read_host_batch
from perdure.pipeline.train.streams import open_stream, read_sample

SEQ, STEPS = 32, 20
CONSTANT = {"type": "constant", "max_lr": 0.01, "warmup": 0}


def array(*values):
    return np.array(values, np.uint16)


def masks_of(documents, before):
    return [
        np.array([PREFIX] * count + [LABEL] * (len(document) - count), np.uint8)
        for document, count in zip(documents, before)
    ]


def read(stream, sample, size, plain):
    """Labels that count, the input before each, and the sample."""
    found = read_sample(stream, sample, size, plain)
    valid = found.counted & (np.arange(size) < found.num_valid)
    return found.tokens[1:][valid].tolist(), found.tokens[:-1][valid].tolist(), found


@pytest.fixture
def stream(tmp_path):
    """Documents 1 2 | 10 .. 13, then 3 | 20 21, then 30 31 32 without prefix, each with its separator behind."""
    documents = [array(1, 2, 10, 11, 12, 13, EOS), array(3, 20, 21, EOS), array(30, 31, 32, EOS)]
    data = write_data(tmp_path / "data", [documents], [], 64)
    write_masks(data, [masks_of(documents, [2, 1, 0])], [])
    return open_stream(data, None, np.arange(3), np.array([7, 11, 15]))


def test_a_prefix_is_read_and_is_no_label(stream):
    labels, before, sample = read(stream, 0, 16, plain=False)
    assert labels == [10, 11, 12, 13, EOS, 20, 21, EOS, 30, 31, 32, EOS]  # n + 1 of each text of n tokens
    assert before[0] == 2 and before[5] == 3
    assert sample.documents == (7, 4, 4, 1) and sample.num_valid == 15


def test_without_prefix_the_text_follows_the_separator(stream):
    labels, before, sample = read(stream, 0, 16, plain=True)
    assert labels == [10, 11, 12, 13, EOS, 20, 21, EOS, 30, 31, 32, EOS]
    assert before == [EOS, 10, 11, 12, 13, EOS, 20, 21, EOS, 30, 31, 32]
    assert sample.num_valid == 12 and sample.documents == (5, 3, 4, 4)
    assert sample.tokens[13:].tolist() == [EOS] * 4
    assert (sample.reference >= 0).all() and len(sample.reference) == 16


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_wherever_samples_are_cut_every_label_comes_once_in_both_views(stream, size):
    samples = range(-(-15 // size))
    views = [[read(stream, number, size, plain)[0] for number in samples] for plain in (False, True)]
    assert views[0] == views[1]
    assert [*chain(*views[0])] == [10, 11, 12, 13, EOS, 20, 21, EOS, 30, 31, 32, EOS]
    for number in samples:
        before = read(stream, number, size, plain=True)[1]
        assert not {1, 2, 3} & set(before)  # no token of a prefix is left, as an input either
        sample = read_sample(stream, number, size, plain=True)
        assert sum(sample.documents) == size and len(sample.tokens) == size + 1


@pytest.fixture
def data(tmp_path):
    """Source `a` with documents of 24 tokens, of which the first 6 are a prefix; `b` without."""
    rng = np.random.default_rng(0)
    documents = [np.append(rng.integers(1, 300, 23), EOS).astype(np.uint16) for _ in range(200)]
    found = {name: write_data(tmp_path / name, [documents], documents[:3], 300) for name in "ab"}
    write_masks(found["a"], [masks_of(documents, [6] * 200)], masks_of(documents[:3], [6] * 3))
    return found


def version(start, mixture, steps=STEPS):
    return {
        "start": start,
        "tokens": SEQ * 8 * steps,
        "mixture": {"max_repetition": 100} | mixture,
        "schedule": CONSTANT,
    }


COOLDOWN = {
    "sources": {"a": {}, "b": {}},
    "switches": [{"at": 0.9, "sources": {"a": {"prefix": False}, "b": {}}}],
}


def test_a_switch_changes_how_exactly_its_share_of_samples_is_read_and_nothing_else(tmp_path, data):
    plans = {}
    for name, mixture in (("cooled", COOLDOWN), ("warm", {"sources": COOLDOWN["sources"]})):
        recipe = tiny_recipe(
            tmp_path / name, versions={"v1": version({"type": "init"}, mixture)}, sources__a__prefix="{x}"
        )
        plans[name] = build_plan(tmp_path / name / "plan", recipe, "v1", data, {})
    plan = plans["cooled"]
    prefixed = [
        index
        for index in range(plan.num_samples)
        if plan.keys[place_of(plan, index).source] == "a" and "a" not in phase_of_sample(plan, index).plain
    ]
    share = Fraction(9, 10) * plan.num_samples * Fraction(1, 2)
    assert len(prefixed) in (int(share), -int(-share // 1)) and max(prefixed) < 0.9 * plan.num_samples
    assert consumed_by_version(plan) == consumed_by_version(plans["warm"])
    assert [place_of(plan, index) for index in range(plan.num_samples)] == [
        place_of(plans["warm"], index) for index in range(plan.num_samples)
    ]
    batches = {name: open_dataset(tmp_path / name / "plan", data, {}) for name in plans}
    for index in range(plan.num_samples):
        one, other = (read_host_batch(dataset, range(index, index + 1)) for dataset in batches.values())
        plain = index >= 0.9 * plan.num_samples and plan.keys[place_of(plan, index).source] == "a"
        assert one.labels[one.valid].tolist() == other.labels[other.valid].tolist()
        assert np.array_equal(one.tokens, other.tokens) != plain
    told = read_json(tmp_path / "cooled" / "plan" / "plan.json")["phases"]
    assert [phase.get("plain") for phase in told] == [None, ["a"]]
    assert "plain" not in read_json(tmp_path / "warm" / "plan" / "plan.json")["phases"][0]


def test_both_views_are_one_stream_to_whoever_comes_after(tmp_path, data):
    versions = {
        "base": version({"type": "init"}, COOLDOWN),
        "next": version({"type": "update", "parent": "base"}, {"sources": {"a": {"prefix": False}}}, 4),
        "last": version(
            {"type": "update", "parent": "base"},
            {"sources": {"b": {}}, "replay": {"share": 0.25, "from_parents": True}},
            4,
        ),
    }
    recipe = tiny_recipe(tmp_path / "out", versions=versions, sources__a__prefix="{x}")
    plans = {}
    for name in versions:
        before = history(recipe, name)
        plans[name] = build_plan(recipe.paths.version(name).plan, recipe, name, data, {}, before)
    consumed = consumed_by_version(plans["base"])["a"]
    assert plans["next"].sources["a"]["start"] == consumed
    line = ledger([(plans["next"], plans["next"].end), (plans["base"], plans["base"].end)])["a"]
    assert line["consumed"] + line["remaining"] == line["total"]
    assert line["consumed"] + line["repeated"] == pytest.approx(
        (consumed + consumed_by_version(plans["next"])["a"]) * SEQ, rel=0.01
    )
    assert plans["next"].phases[0].plain == ("a",)
    # What is replayed is read as it was at its end.
    assert last_plain([(plans["base"], plans["base"].end)], "a")
    assert plans["last"].phases[0].plain == ("replay/a",)
