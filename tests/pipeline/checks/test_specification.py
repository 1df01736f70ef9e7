"""docs/specification.md says what the code does: reference implementations written from that page agree with it."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import specification as page
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS, random_data, tiny_recipe

from perdure.kernels import select_tokens
from perdure.pipeline.core import shards
from perdure.pipeline.data.cleaning.normalise import is_heldout, text_hash
from perdure.pipeline.evaluate import sampling
from perdure.pipeline.evaluate.bootstrap import interval, resampled
from perdure.pipeline.plan import mixture, order, permutation, plan
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.plan.schedule import learning_rate
from perdure.pipeline.recipe import CosineSchedule, Mixture, Selection
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.scores import made_reference
from perdure.pipeline.train.streams import read_sample

WORDS = st.text(min_size=1, max_size=12)
NUMBERS = st.integers(0, (1 << 64) - 1)


@given(WORDS, NUMBERS, NUMBERS)
def test_hashes(text, a, b):
    assert page.number(text) == permutation.hash_key(text)
    assert page.mix(a, b) == permutation.mix(a, b)
    assert page.draw(a, b) == int(order.splitmix64(a, np.array([b], np.uint64))[0])


@given(WORDS, st.sampled_from([0.001, 0.02, 0.5]))
def test_held_out_documents(text, fraction):
    assert page.held_out(text, fraction) == is_heldout(text_hash(text), fraction)


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=9), st.sampled_from([10, 569, 10_000]))
def test_moving_shares_are_rounded(weights, parts):
    ratios = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    found = mixture.rounded_shares(ratios, parts)
    assert [int(share * parts) for share in found.values()] == page.largest_remainder(
        [*ratios.values()], parts
    )


@given(st.integers(1, 5000), NUMBERS, st.data())
def test_permutations(size, key, data):
    index = data.draw(st.integers(0, size - 1))
    assert page.permute(index, size, key) == permutation.permute(index, size, key)


@given(st.lists(st.integers(1, 25), min_size=1, max_size=6))
def test_blocks(counts):
    assert page.block(counts) == mixture.block_pattern(counts).tolist()


@settings(max_examples=40)
@given(st.lists(st.fractions(Fraction(1, 10**6), 1), min_size=1, max_size=60))
def test_counts_of_a_block(weights):
    shares = [weight / sum(weights) for weight in weights]
    assert page.block_counts(shares) == mixture.block_counts(shares)


@given(st.integers(1, 99), st.integers(1, 100), st.sampled_from(["trained", "read"]))
def test_shares_of_replay(percent, hundredths, share_of):
    replay = {"share": percent / 100, "share_of": share_of, "sources": {"b": {}}}
    found = Mixture.model_validate({"sources": {"a": {}}, "replay": replay}).replay
    expected = page.read_share(f"{percent / 100}", f"{hundredths / 100}", share_of)
    assert mixture.read_share(found, hundredths / 100) == expected


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A plan with every kind of stream: shuffled, in order, replayed, from ancestors, with a switch."""
    out = tmp_path_factory.mktemp("spec")
    old = {"sources": {"b": {}}, "max_repetition": 1e9}
    new = {
        "sources": {"a": {"weight": 3, "order": "given"}, "b": {}},
        "replay": {"share": 0.3, "from_parents": True},
        "switches": [{"at": 0.5, "sources": {"a": {"order": "given"}}}],
        "max_repetition": 1e9,
    }
    start, schedule = {"type": "init"}, {"type": "constant", "max_lr": 0.01}
    versions = {
        "v1": {"start": start, "tokens": 32 * 8 * 4, "mixture": old, "schedule": schedule},
        "v2": {
            "start": {"type": "update", "parent": "v1"},
            "tokens": 32 * 8 * 30,
            "mixture": new,
            "schedule": schedule,
        },
    }
    versions["v2"]["selection"] = {"k": 0.6, "score": "random"}
    recipe = tiny_recipe(out, versions=versions)
    data, _, _ = random_data(out)
    first = build_plan(out / "v1", recipe, "v1", data, {})
    build_plan(out / "v2", recipe, "v2", data, {}, [(first, first.end)])
    return out / "v2", data


def test_every_sample_of_a_plan(planned):
    directory, data = planned
    dataset, description = (
        open_dataset(directory, data, {}),
        json.loads((directory / "plan.json").read_text()),
    )
    streams, seen = {}, set()
    for key, entry in description["sources"].items():
        documents = page.documents_of(data[entry["source"]])
        pool = entry["pool"]
        shuffled = (pool or entry)["order"] == "shuffled"
        numbers = page.shuffled(len(documents), description["seed"], pool["key"] if pool else key)
        numbers = numbers if shuffled else list(range(len(documents)))
        name = key.replace("/", "~")
        assert np.load(directory / f"{name}.documents.npy").tolist() == numbers
        streams[key] = np.concatenate([documents[i] for i in numbers])
        ends = np.cumsum([len(documents[i]) for i in numbers])
        assert np.load(directory / f"{name}.ends.npy").tolist() == ends.tolist()
    for index in range(description["num_samples"]):
        key, epoch, place = page.locate(description, index)
        assert (key, epoch, place) == plan.locate(dataset.plan, index)
        inputs, labels = page.sample(streams[key], place, 32, EOS)
        tokens, _, valid, *_ = read_sample(dataset.streams[key], place, 32)
        assert tokens[:-1].tolist() == inputs.tolist() and tokens[1 : valid + 1].tolist() == labels.tolist()
        seen |= {(key, epoch > 0, len(labels) < 32)}
    assert {key for key, *_ in seen} == set(description["sources"])
    assert any(again for _, again, _ in seen) and any(short for *_, short in seen)


def test_shards_and_sidecars(planned, tmp_path):
    _, data = planned
    _, scores, _ = random_data(tmp_path, scored=True)
    for prefix in (data["a"] / "00001", scores["a"] / "00000.ref"):
        opened, documents = shards.open_shard(prefix), page.read_shard(prefix)
        assert opened.lengths.tolist() == [len(document) for document in documents]
        assert opened.values.tolist() == np.concatenate(documents).tolist()


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.5, -1.0, None]), min_size=1, max_size=40),
    st.sampled_from(["0.6", "0.25", "0.5", "0.01", "0.99"]),
)
def test_selection_and_its_ties(scores, k):
    nll = torch.tensor([0.0 if score is None else score for score in scores])[None]
    reference = torch.tensor([torch.nan if score is None else 0.0 for score in scores])[None]
    found = select_tokens(nll, reference, torch.ones_like(nll, dtype=torch.bool), k=float(k))
    given_scores = np.array([-np.inf if score is None else score for score in scores])
    assert found[0].tolist() == page.select(given_scores, k).tolist()


def test_random_scores():
    found = made_reference(Selection(score="random"), 77, range(5, 9), 32)
    assert found.tolist() == [page.random_reference(77, index, 32) for index in range(5, 9)]


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_rates(steps, warmup):
    schedule = CosineSchedule(type="cosine", max_lr=0.01, min_lr=0.001, warmup=warmup)
    for step in {1, steps // 2 + 1, steps}:
        if round(warmup * steps) < steps:
            assert learning_rate(schedule, step, steps) == pytest.approx(
                page.cosine(step, steps, 0.01, 0.001, warmup), rel=1e-12
            )


@pytest.mark.parametrize("sizes", [(37,), (20, 3, 9, 5), (2, 1, 6), (3,)])
def test_intervals(sizes):
    random, n = np.random.default_rng(3), sum(sizes)
    tokens = random.integers(1, 90, n).astype(float)
    losses = tokens * random.uniform(1, 4, n)
    strata = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    found = interval(resampled(losses[None], tokens, 1234 + 2, strata)[0])
    assert found == pytest.approx(page.bootstrap(losses, tokens, 1234 + 2, strata.tolist()), rel=1e-12)


@pytest.mark.parametrize("budget", [30, 500, 3000])
def test_samples_of_held_out_text(budget):
    random = np.random.default_rng(budget)
    tokens, strata = random.integers(1, 300, 60), random.integers(3, size=60)
    hashes = random.integers(0, 2**64, 60, dtype=np.uint64)
    documents = list(zip(tokens.tolist(), hashes.tolist(), strata.tolist()))
    expected = page.heldout_sample(documents, budget)
    found = [
        (int(hashes[document]), int(begin), int(stop))
        for document, begin, stop in zip(*sampling.draw(tokens, hashes, strata, budget))
    ]
    joined: list[tuple[int, int, int]] = []
    for h, begin, stop in expected:
        if joined and joined[-1][0] == h and joined[-1][2] == begin:
            joined[-1] = (h, joined[-1][1], stop)
        else:
            joined.append((h, begin, stop))
    assert found == joined


def test_constants_of_the_page_are_those_of_its_implementation():
    """So that neither is changed alone: every long constant of the page stands in the implementation."""
    text = (Path(__file__).parents[3] / "docs" / "specification.md").read_text()
    code = Path(page.__file__).read_text()
    constants = set(re.findall(r"0x[0-9A-F]{16}", text))
    assert len(constants) == 4 and constants <= set(re.findall(r"0x[0-9A-F]{16}", code))
