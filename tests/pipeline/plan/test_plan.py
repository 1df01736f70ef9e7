"""The plan: every token once an epoch, a pure function of the index, and refusals that name what differs."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.plan import plan as plan_module
from perdure.pipeline.plan.lineage import history
from perdure.pipeline.plan.plan import (
    Plan,
    consumed_samples,
    locate,
    make_plan,
    num_samples,
    num_steps,
    open_order,
    open_plan,
    permute,
)
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.train.dataset import open_dataset, read_sample
from tests.support import EOS, tiny_recipe, write_data

SEQ = 32


def numbered_documents(lengths: list[int], first: int) -> list[np.ndarray]:
    """Documents whose tokens number all tokens of a source from `first` on; each ends in end-of-sequence."""
    documents = []
    for length in lengths:
        documents.append(np.append(np.arange(first, first + length), EOS).astype(np.uint16))
        first += length
    return documents


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sources of two shards: `a` with 2 x 30 documents from token 1 on, `b` with 2 x 5 from 30,001 on."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    found = {}
    for name, count, first in (("a", 30, 1), ("b", 5, 30_001)):
        tasks = []
        for _ in range(2):
            tasks.append(numbered_documents(rng.integers(1, 90, count).tolist(), first))
            first += sum(len(document) for document in tasks[-1])
        found[name] = write_data(root / name, tasks, numbered_documents([5], 60_000), 65_000)
    return found


@pytest.fixture(scope="module")
def scores(tmp_path_factory, data):
    """Perplexities for `a`'s documents."""
    rng = np.random.default_rng(1)
    rows = [
        {"shard": shard, "sequence": sequence, "perplexity": float(rng.integers(2, 40))}
        for shard in range(2)
        for sequence in range(30)
    ]
    directory = tmp_path_factory.mktemp("scores") / "model@1"
    directory.mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), directory / "docs.parquet")
    return {"a": directory}


def recipe_of(out, mixture: dict, steps: int = 40, **changes):
    changes = {"versions__v1__mixture": {"max_repetition": 1000} | mixture} | changes
    return tiny_recipe(out, **{"versions__v1__tokens": SEQ * 8 * steps} | changes)


def build(out, data, mixture, scores=None, **changes):
    recipe = recipe_of(out, mixture, **changes)
    return build_plan(out / "plan", recipe, "v1", data, scores or {})


def labels(dataset, key, sample):
    tokens, _reference, num_valid = read_sample(dataset.streams[key], sample, SEQ)
    return tokens[1 : num_valid + 1]


BOTH = {"sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}}}
REPLAY = {"sources": {"b": {}}, "replay": {"share": 0.25, "sources": {"a": {"order": "given"}}}}


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
        tokens, _reference, num_valid = read_sample(stream, sample, SEQ)
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


def test_budget_is_rounded_up_to_whole_steps(tmp_path):
    recipe = tiny_recipe(tmp_path, versions__v1__tokens=SEQ * 8 * 3 + 1)
    version = recipe.versions["v1"]
    assert num_steps(recipe, version) == 4
    assert num_samples(recipe, version) == 32


def test_building_again_gives_the_same_bytes(tmp_path, data, scores):
    mixture = {
        "sources": {"a": {"order": "easy_to_hard"}},
        "replay": {"share": 0.1, "sources": {"b": {}}},
    }
    for name in ("one", "two"):
        build(tmp_path / name, data, mixture, scores)
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "plan").iterdir()} for name in ("one", "two")
    )
    assert one == two
    assert "replay~b.ends.npy" in one


def test_a_finished_plan_is_opened_not_rebuilt(tmp_path, data):
    first = build(tmp_path, data, BOTH)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "plan").iterdir()}
    second = build(tmp_path, data, BOTH)
    assert first.hash == second.hash == open_plan(tmp_path / "plan").hash
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "plan").iterdir()}


def test_a_finished_plan_is_opened_without_looking_into_shards(tmp_path, data):
    mine = {name: Path(shutil.copytree(path, tmp_path / name)) for name, path in data.items()}
    first = build(tmp_path, mine, BOTH)
    for path in mine.values():
        for shard in (*path.glob("*.idx"), *path.glob("*.bin")):
            shard.unlink()
    assert build(tmp_path, mine, BOTH).hash == first.hash


def large_plan(samples: int, sources: int = 200) -> Plan:
    """One epoch of sources of equal size, in two phases."""
    entry = {"order": "shuffled", "samples_per_epoch": samples // sources, "start": 0, "pool": None}
    counts = {f"s{number}": 1 for number in range(sources)}
    phases = [{"first_sample": first, "counts": counts} for first in (0, samples // 2 // sources * sources)]
    described = {"seed": 1, "seq_length": 4096, "first_sample": 0, "num_samples": samples, "phases": phases}
    return make_plan(described | {"sources": dict.fromkeys(counts, entry)})


def test_seeking_takes_as_many_operations_in_a_plan_of_a_trillion_tokens(monkeypatch):
    rounds, rng = [], np.random.default_rng(0)
    real = plan_module.mix
    monkeypatch.setattr(plan_module, "mix", lambda a, b: rounds.append(1) or real(a, b))
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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 99}, "seed: 1234 -> 99"),
        ({"steps": 41}, "num_samples"),
        ({"mixture": {"sources": {"a": {"weight": 0.6}, "b": {"weight": 0.4}}}}, "counts"),
        (
            {"mixture": {"sources": {"a": {"weight": 0.7, "order": "given"}, "b": {"weight": 0.3}}}},
            "sources.a.order: 'shuffled' -> 'given'",
        ),
    ],
)
def test_a_plan_of_something_else_is_refused_and_named(tmp_path, data, changes, named):
    build(tmp_path, data, BOTH)
    with pytest.raises(PerdureError) as refused:
        build(tmp_path, data, **{"mixture": BOTH} | changes)
    assert named in str(refused.value)
    assert str(tmp_path / "plan") in str(refused.value)


def test_other_data_is_refused_and_named(tmp_path, data):
    build(tmp_path, data, BOTH)
    other = write_data(tmp_path / "b", [numbered_documents([3, 4], 1), []], [], 65_000)
    with pytest.raises(PerdureError, match=r"sources\.b\.data_hash"):
        build(tmp_path, data | {"b": other}, BOTH)


def test_too_much_repetition_is_refused(tmp_path, data):
    with pytest.raises(
        PerdureError, match=r"source b: [\d,]+ tokens asked of [\d,]+ would repeat it \d+\.\d times"
    ):
        build(tmp_path, data, BOTH | {"max_repetition": 3})
    assert not (tmp_path / "plan").exists()


def test_what_ancestors_took_counts_in_repetition(tmp_path, data):
    """A source of one epoch and 1.5 of it a version: the third would be its fourth and a half."""
    size = build(tmp_path / "size", data, {"sources": {"b": {}}}).sources["b"]["samples_per_epoch"]
    steps = -(-3 * size // (2 * 8))
    limit = 2 * steps * 8 / size
    mixture = {"sources": {"b": {}}, "max_repetition": limit}
    recipe, history = recipe_of(tmp_path, mixture, steps), []
    for number in (1, 2):
        plan = build_plan(tmp_path / f"plan{number}", recipe, "v1", data, {}, history)
        history = [(plan, plan.end), *history]
    assert plan.sources["b"]["start"] == steps * 8
    tokens = f"{steps * 8 * SEQ:,}"
    with pytest.raises(
        PerdureError, match=f"source b: {tokens} tokens .*, after {2 * steps * 8 * SEQ:,} by its"
    ) as no:
        build_plan(tmp_path / "plan3", recipe, "v1", data, {}, history)
    assert f"would repeat it {3 * steps * 8 / size:.1f} times" in str(no.value)


def test_the_hash_says_what_decides_the_stream(tmp_path, data):
    hashes = {
        build(tmp_path / str(number), data, **changes).hash
        for number, changes in enumerate(
            [
                {"mixture": BOTH},
                {"mixture": BOTH, "seed": 1},
                {"mixture": BOTH, "steps": 41},
                {"mixture": REPLAY},
            ]
        )
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("new", ["a", "b"])
def test_branches_replay_what_the_version_that_they_leave_does(tmp_path, data, new):
    step, common = SEQ * 8, {"schedule": {"type": "constant", "max_lr": 0.01}}
    replay = {"sources": {new: {}}, "replay": {"share": 0.25, "from_parents": True}, "max_repetition": 100}
    main = {"start": {"type": "update", "parent": "v1"}, "tokens": 9 * step, "mixture": replay}

    def branch(parent, at, steps):
        return common | {"start": {"type": "branch", "parent": parent, "step": at}, "tokens": steps * step}

    versions = {
        "v1": common | {"start": {"type": "init"}, "tokens": 4 * step, "mixture": {"sources": {"a": {}}}},
        "main": common | main,
        "jan": branch("main", 4, 3),
        "feb": branch("jan", 2, 3),  # off a branch
    }
    recipe = tiny_recipe(tmp_path, versions=versions)
    plans = {
        name: build_plan(recipe.paths.version(name).plan, recipe, name, data, {}, history(recipe, name))
        for name in versions
    }
    path = plans["main"]
    for name, first in (("jan", 4), ("feb", 6)):
        assert plans[name].first_sample == 8 * first
        both = range(8 * first, min(plans[name].end, path.end))
        assert [locate(plans[name], index) for index in both] == [locate(path, index) for index in both]
