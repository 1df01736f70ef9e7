"""The plan: every token once an epoch, a pure function of the index."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tiny import EOS

from perdure.pipeline.plan import permutation
from perdure.pipeline.plan.permutation import permute
from perdure.pipeline.plan.plan import Plan, consumed_samples, locate, make_plan, open_order
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.streams import read_sample
from tests.pipeline.plan.numbered import BOTH, REPLAY, SEQ, build, labels


@pytest.mark.parametrize("order", ["shuffled", "given", "easy_to_hard"])
def test_every_token_is_a_label_exactly_once_an_epoch(tmp_path, data, scores, order):
    plan = build(tmp_path, data, {"sources": {"a": {"order": order}}}, scores)
    dataset = open_dataset(tmp_path / "plan", data, {})
    everything = np.sort(np.concatenate([dataset.streams["a"].shards[i].values for i in range(2)]))
    per_epoch = plan.sources["a"]["samples_per_epoch"]
    for epoch in range(3):
        located = [locate(plan, index) for index in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        assert {where[:2] for where in located} == {("a", epoch)}
        seen = np.concatenate([labels(dataset, "a", sample) for _, _, sample in located])
        assert np.array_equal(np.sort(seen), everything)


def test_an_input_is_the_token_before_its_label_and_the_first_is_end_of_sequence(tmp_path, data):
    build(tmp_path, data, {"sources": {"b": {"order": "given"}}})
    stream = open_dataset(tmp_path / "plan", data, {}).streams["b"]
    text = np.concatenate([[EOS], *(shard.values for shard in stream.shards)])
    for sample in range(-(-(len(text) - 1) // SEQ)):
        tokens, _reference, num_valid, *_ = read_sample(stream, sample, SEQ)
        assert np.array_equal(tokens[: num_valid + 1], text[sample * SEQ : sample * SEQ + num_valid + 1])
        assert (tokens[num_valid + 1 :] == EOS).all()
    assert num_valid == (len(text) - 2) % SEQ + 1


def test_shuffled_epochs_differ_and_are_not_in_order(tmp_path, data):
    plan = build(tmp_path, data, {"sources": {"a": {}}})
    per_epoch = plan.sources["a"]["samples_per_epoch"]
    epochs = [[locate(plan, epoch * per_epoch + i)[2] for i in range(per_epoch)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(per_epoch))
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])
    documents, _ends = open_order(tmp_path / "plan", "a")
    assert sorted(documents) == list(range(60))
    assert list(documents) != list(range(60))


def test_the_seed_the_source_and_the_epoch_decide_a_shuffle():
    """Permutations that do not depend on each other have one fixed point each on average, however long they are."""
    size, pairs = 256, []
    entry = {"order": "shuffled", "pool": None, "samples_per_epoch": size, "start": 0, "source": "a"}
    described = {"seq_length": SEQ, "first_sample": 0, "num_samples": 8 * size}
    described |= {"phases": [{"first_sample": 0, "counts": {"a": 1, "b": 1}, "reason": ""}]}
    orders = {}
    for seed in range(30):
        plan = make_plan(described | {"seed": seed, "sources": {"a": entry, "b": entry | {"source": "b"}}})
        for index in range(4 * size):
            key, epoch, sample = locate(plan, index)
            orders.setdefault((seed, key, epoch), []).append(sample)
    assert len(orders) == 30 * 2 * 2 and all(sorted(order) == list(range(size)) for order in orders.values())
    for seed in range(30):
        first = orders[seed, "a", 0]
        pairs += [(first, orders[seed, "a", 1]), (first, orders[seed, "b", 0])]
        pairs += [(first, orders[(seed + 1) % 30, "a", 0]), (first, list(range(size)))]
    for number in range(4):
        fixed = [sum(x == y for x, y in zip(*pair)) for pair in pairs[number::4]]
        assert np.mean(fixed) == pytest.approx(1, abs=5 / np.sqrt(30)) and max(fixed) < 10


def test_a_recipes_seed_shuffles_documents_and_samples(tmp_path, data):
    found = []
    for seed in (1, 2):
        plan = build(tmp_path / str(seed), data, {"sources": {"a": {}}}, seed=seed)
        documents, _ = open_order(tmp_path / str(seed) / "plan", "a")
        found.append(
            (documents.tolist(), [locate(plan, index) for index in range(plan.num_samples)], plan.seed)
        )
    (documents, located, first), (others, elsewhere, second) = found
    assert (first, second) == (1, 2) and located != elsewhere
    assert sorted(documents) == sorted(others) == list(range(60))
    assert sum(x == y for x, y in zip(documents, others)) < 10


def test_given_order_repeats_itself(tmp_path, data):
    plan = build(tmp_path, data, {"sources": {"a": {"order": "given"}}})
    per_epoch = plan.sources["a"]["samples_per_epoch"]
    assert [locate(plan, i)[2] for i in range(2 * per_epoch)] == [*range(per_epoch)] * 2


def test_easy_to_hard_consumes_documents_by_rising_perplexity(tmp_path, data, scores):
    plan = build(tmp_path, data, {"sources": {"a": {"order": "easy_to_hard"}}}, scores)
    dataset = open_dataset(tmp_path / "plan", data, {})
    table = parquet.read_table(scores["a"] / "docs.parquet").to_pylist()
    perplexity = {(row["shard"], row["sequence"]): row["perplexity"] for row in table}
    of_first_token = {
        int(shard.values[shard.start(number)]): perplexity[task, number]
        for task, shard in enumerate(dataset.streams["a"].shards)
        for number in range(len(shard.lengths))
    }
    consumed = np.concatenate(
        [
            labels(dataset, *locate(plan, index)[::2])
            for index in range(plan.sources["a"]["samples_per_epoch"])
        ]
    )
    met = [of_first_token[token] for token in consumed.tolist() if token in of_first_token]
    assert len(met) == 60
    assert met == sorted(met)
    assert len(set(met)) > 10


@pytest.mark.parametrize("mixture", [BOTH, REPLAY])
def test_consumed_samples_count_what_locate_gives(tmp_path, data, mixture):
    plan = build(tmp_path, data, mixture)
    taken = dict.fromkeys(plan.keys, 0)
    for index in range(plan.num_samples):
        assert consumed_samples(plan, index) == taken
        key, epoch, sample = locate(plan, index)
        assert 0 <= sample < plan.sources[key]["samples_per_epoch"]
        assert epoch == taken[key] // plan.sources[key]["samples_per_epoch"]
        taken[key] += 1
    assert consumed_samples(plan, plan.num_samples) == taken
    shares = (
        {"a": 0.7, "b": 0.3, "replay/a": 0.25} if "replay" not in mixture else {"b": 0.75, "replay/a": 0.25}
    )
    for key, count in taken.items():
        assert abs(count - shares[key] * plan.num_samples) < 1


def test_a_source_in_both_parts_has_two_streams(tmp_path, data):
    mixture = {"sources": {"a": {}}, "replay": {"share": 0.5, "sources": {"a": {}}}}
    plan = build(tmp_path, data, mixture)
    assert plan.keys == ("a", "replay/a")
    orders = [open_order(tmp_path / "plan", key)[0].tolist() for key in plan.keys]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@given(st.integers(1, 400), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(size, key):
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


@given(st.integers(2, 2**40), st.integers(0, 2**64 - 1), st.data())
def test_permute_stays_in_range_at_any_size(size, key, draw):
    a, b = (draw.draw(st.integers(0, size - 1)) for _ in range(2))
    assert 0 <= permute(a, size, key) < size
    assert (permute(a, size, key) == permute(b, size, key)) == (a == b)


def test_permutations_differ_by_key():
    assert len({tuple(permute(i, 50, key) for i in range(50)) for key in range(20)}) == 20


def large_plan(samples: int, sources: int = 200) -> Plan:
    """One epoch of sources of equal size, in two phases."""
    entry = {"order": "shuffled", "samples_per_epoch": samples // sources, "start": 0, "pool": None}
    counts = {f"s{number}": 1 for number in range(sources)}
    phases = [{"first_sample": first, "counts": counts} for first in (0, samples // 2 // sources * sources)]
    described = {"seed": 1, "seq_length": 4096, "first_sample": 0, "num_samples": samples, "phases": phases}
    return make_plan(described | {"sources": dict.fromkeys(counts, entry)})


def test_seeking_takes_as_many_operations_in_a_plan_of_a_trillion_tokens(monkeypatch):
    rounds, rng = [], np.random.default_rng(0)
    real = permutation.mix
    monkeypatch.setattr(permutation, "mix", lambda a, b: rounds.append(1) or real(a, b))
    for samples in (200 * 1000, 10**12 // 4096 // 200 * 200):
        plan = large_plan(samples)
        assert sum(array.nbytes for phase in plan.phases for array in (phase.pattern, phase.rank)) == 3200
        tail = {locate(plan, index) for index in range(samples - 1000, samples)}
        assert len(tail) == 1000 and {epoch for _, epoch, _ in tail} == {0}
        rounds.clear()
        for index in rng.integers(0, samples, 1000):
            locate(plan, int(index))
        # Four rounds a walk; the next power of four is less than four times as large, so that it takes below four walks.
        assert 4 <= len(rounds) / 1000 < 16
