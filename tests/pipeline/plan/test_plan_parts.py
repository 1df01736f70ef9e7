"""Plans over parts of sources: topics in mixtures, subsets by perplexity, domains one after another, consumption."""

import numpy as np
import pytest
from tiny import EOS, tiny_recipe, write_data

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.documents import heldout
from perdure.pipeline.plan.consumption import ledger
from perdure.pipeline.plan.domain_order import (
    jensen_shannon,
    random_order,
    similarity_order,
    token_frequencies,
)
from perdure.pipeline.plan.plan import consumed_by_version, locate, open_order, order_files
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.streams import open_heldout, read_sample
from tests.pipeline.plan.perplexities import write_perplexities

SEQ, STEP, DOCUMENTS = 32, 32 * 8, 40
TOPICS = ("sea", "Art & Music", "farm/cows")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`a`: 2 x 40 documents of three topics in turn, whose tokens number all tokens; topic n has its own numbers, from
    10,000 n on. `b`: one topic, tokens from 40,000 on."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    next_token = [10_000 * number + 1 for number in range(5)]

    def document(domain: int, length: int) -> np.ndarray:
        first = next_token[domain]
        next_token[domain] += length
        return np.append(np.arange(first, first + length), EOS).astype(np.uint16)

    tasks = [
        [document(number % 3, int(rng.integers(5, 60))) for number in range(DOCUMENTS)] for _ in range(2)
    ]
    heldout = [document(number % 2, 7 + number) for number in range(5)]
    label = lambda split, task, number: {"topic": TOPICS[number % (3 if split == "train" else 2)]}  # noqa: E731
    other = [[document(4, 50) for _ in range(10)], []]
    return {
        "a": write_data(root / "a", tasks, heldout, 65_000, label=label),
        "b": write_data(root / "b", other, [document(4, 9)], 65_000),
    }


def recipe_of(out, steps: int, **mixture):
    mixture = {"max_repetition": 1000} | mixture
    return tiny_recipe(out, versions__v1__tokens=STEP * steps, versions__v1__mixture=mixture)


def build(out, data, steps=20, history=(), scores=None, **mixture):
    return build_plan(out / "plan", recipe_of(out, steps, **mixture), "v1", data, scores or {}, history)


def consumed(out, plan, data) -> dict[str, list[int]]:
    """Tokens that training takes from each key, in order, separators left out."""
    dataset, found = open_dataset(out / "plan", data, {}), {key: [] for key in plan.keys}
    for index in range(plan.first_sample, plan.end):
        key, _epoch, sample = locate(plan, index)
        tokens, _, valid, *_ = read_sample(dataset.streams[key], sample, SEQ)
        found[key] += [token for token in tokens[1 : valid + 1].tolist() if token != EOS]
    return found


def test_topics_are_weighted_and_each_gives_its_own_documents(tmp_path, data):
    weights = {"a/sea": 2, "a/Art & Music": 1, "a/farm/cows": 1}
    sources = {domain: {"weight": weight} for domain, weight in weights.items()}
    plan = build(tmp_path, data, steps=16, sources=sources)
    assert consumed_by_version(plan) == {"a/sea": 64, "a/Art & Music": 32, "a/farm/cows": 32}
    names = {path.name for path in order_files(tmp_path / "plan", "a/Art & Music")}
    assert names == {"a~Art %26 Music.documents.npy", "a~Art %26 Music.ends.npy"}
    long = [f"a/{'технологии ' * 8}{end}" for end in "бв"]
    files = {path.name for topic in long for path in order_files(tmp_path / "plan", topic)}
    assert len(files) == 4 and all(len(f".{file}.sorting") < 200 for file in files)
    for number, (domain, tokens) in enumerate(consumed(tmp_path, plan, data).items()):
        assert {token // 10_000 for token in tokens} == {number}, domain
        documents, ends = open_order(tmp_path / "plan", domain)
        assert all(document % DOCUMENTS % 3 == number for document in documents.tolist())
        assert plan.sources[domain]["tokens"] == ends[-1]
    everything = sum(plan.sources[domain]["documents"] for domain in weights)
    assert everything == 2 * DOCUMENTS  # no document is lost, and none is in two


def test_a_topic_that_nobody_has_is_refused_at_planning(tmp_path, data):
    with pytest.raises(
        PerdureError, match=r"version v1: a/seo: no training document has the topic 'seo'; .*sea"
    ):
        build(tmp_path, data, sources={"a/seo": {}})
    assert not (tmp_path / "plan").exists()


def test_a_subset_by_perplexity_repeats_up_to_the_cap_and_no_further(tmp_path, data):
    scores = {"a": data["a"] / "scores" / "base@1"}
    if not scores["a"].exists():
        rows = np.random.default_rng(1).permutation(2 * DOCUMENTS).astype(float).tolist()
        write_rows(scores["a"], rows)
    subset = {"a": {"order": "easy_to_hard", "lowest_perplexity": {"tokens": 500}}}
    plan = build(tmp_path, data, 8, scores=scores, sources=subset, perplexity_model="/base")
    entry = plan.sources["a"]
    assert 500 <= entry["tokens"] < 560 and entry["scores"] == "base@1"
    assert entry["part"].startswith("a@") and entry["lowest_perplexity"] == {"tokens": 500, "share": None}
    documents, _ = open_order(tmp_path / "plan", "a")
    rows = np.array(rows_of(scores["a"]))
    assert rows[documents].tolist() == list(range(len(documents)))  # the lowest, easiest first
    found = consumed(tmp_path, plan, data)["a"]
    epochs = 8 * STEP / (entry["samples_per_epoch"] * SEQ)
    assert 3.5 < epochs < 4.5 and max(found.count(token) for token in set(found)) == -(-epochs // 1)
    with pytest.raises(
        PerdureError, match=r"source a: 2,048 tokens asked of 5\d\d would repeat it \d.\d times"
    ):
        build(tmp_path / "2", data, 8, scores=scores, sources=subset, perplexity_model="/b", max_repetition=3)
    with pytest.raises(
        PerdureError, match=r"version v1: a: lowest_perplexity.tokens = 99,999, but it has only"
    ):
        more = {"a": {"lowest_perplexity": {"tokens": 99_999}}}
        build(tmp_path / "3", data, 8, scores=scores, sources=more, perplexity_model="/base")


def write_rows(directory, rows):
    import pyarrow as pa
    from pyarrow import parquet

    write_perplexities(directory, [0.0] * 3)
    columns = {
        "shard": [number // DOCUMENTS for number in range(len(rows))],
        "sequence": [number % DOCUMENTS for number in range(len(rows))],
        "perplexity": rows,
    }
    parquet.write_table(pa.table(columns), directory / "docs.parquet")
    finish(directory, {})


def rows_of(directory) -> list[float]:
    from pyarrow import parquet

    return parquet.read_table(directory / "docs.parquet")["perplexity"].to_pylist()


def test_a_lineage_goes_on_in_a_topic_and_replays_what_it_saw_of_it(tmp_path, data):
    first = build(tmp_path / "1", data, 2, sources={"a/sea": {}, "b": {}})
    history = [(first, first.end)]
    second = build(tmp_path / "2", data, 2, history, sources={"a/sea": {}, "a/Art & Music": {}})
    assert second.sources["a/sea"]["start"] == 8 and second.sources["a/Art & Music"]["start"] == 0
    seen, then = (consumed(tmp_path / name, plan, data) for name, plan in (("1", first), ("2", second)))
    assert not set(seen["a/sea"]) & set(then["a/sea"])  # nothing repeats
    history = [(second, second.end), *history]
    third = build(
        tmp_path / "3", data, 8, history, sources={"b": {}}, replay={"share": 0.5, "from_parents": True}
    )
    replayed = consumed(tmp_path / "3", third, data)
    assert set(replayed["replay/a/sea"]) == set(seen["a/sea"] + then["a/sea"])
    assert set(replayed["replay/a/Art & Music"]) == set(then["a/Art & Music"])
    lines = ledger([(third, third.end), *history])
    assert lines["a/sea"]["consumed"] == 16 * SEQ and lines["b"]["consumed"] > 8 * SEQ
    assert all(line["consumed"] + line["remaining"] == line["total"] for line in lines.values())


def test_another_subset_is_another_stream(tmp_path, data):
    scores = data["a"] / "scores" / "other@1"
    write_rows(scores, [float(number) for number in range(2 * DOCUMENTS)])
    whole = build(tmp_path / "1", data, 1, sources={"a": {}})
    mixture = {"sources": {"a": {"lowest_perplexity": {"tokens": 900}}}, "perplexity_model": "/other"}
    history = [(whole, whole.end)]
    part = build(tmp_path / "2", data, 1, history, scores={"a": scores}, **mixture)
    assert part.sources["a"]["start"] == 0
    again = build(tmp_path / "3", data, 1, [(part, part.end), *history], scores={"a": scores}, **mixture)
    assert again.sources["a"]["start"] == 8
    line = ledger([(again, again.end), (part, part.end), *history])["a"]
    assert line["total"] == whole.sources["a"]["tokens"] and line["consumed"] == 16 * SEQ
    replay = build(
        tmp_path / "4",
        data,
        4,
        [(again, again.end), (part, part.end)],
        sources={"b": {}},
        replay={"share": 0.5, "from_parents": True},
    )
    seen = consumed(tmp_path / "2", part, data)["a"] + consumed(tmp_path / "3", again, data)["a"]
    assert set(consumed(tmp_path / "4", replay, data)["replay/a"]) == set(seen)
    (scores / "_SUCCESS").unlink()
    with pytest.raises(PerdureError, match="by which its ancestors chose from a, is gone"):
        parents = {"share": 0.5, "from_parents": True}
        build(tmp_path / "5", data, 4, [(part, part.end)], sources={"b": {}}, replay=parents)


def test_held_out_text_of_a_topic_is_that_of_its_documents(data):
    for number, topic in enumerate(TOPICS):
        held = heldout(data["a"], f"a/{topic}", 10_000)
        documents, (stream, _) = held.documents, open_heldout(data["a"], held, SEQ)
        expected = [7 + place + 1 for place in range(5) if place % 2 == number and number < 2]
        assert np.diff(stream.ends, prepend=0).tolist() == expected
        assert documents["bytes"].to_pylist() == [4 * length for length in expected]
        if expected:
            tokens, _, valid, *_ = read_sample(stream, 0, SEQ)
            assert {token // 10_000 for token in tokens[1 : valid + 1].tolist() if token != EOS} == {number}


# ------------------------------------------------------------------------------------- domain order


def test_divergences_are_those_of_the_formula():
    half, other = np.array([0.5, 0.5, 0, 0]), np.array([0, 0, 0.25, 0.75])
    assert jensen_shannon(half, half) == 0
    assert jensen_shannon(half, other) == 1
    # 1/2 KL((1,0)||(3/4,1/4)) + 1/2 KL((1/2,1/2)||(3/4,1/4))
    expected = (np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5 * np.log2(2)) / 2
    assert jensen_shannon(np.array([1.0, 0]), np.array([0.5, 0.5])) == pytest.approx(expected, abs=1e-15)


def test_the_path_goes_to_the_most_similar_domain_that_is_left():
    domains = {
        "a": np.array([1.0, 0, 0]),
        "b": np.array([0, 0.2, 0.8]),
        "c": np.array([0.8, 0.2, 0]),
        "d": np.array([0.3, 0.6, 0.1]),
    }
    order, distances = similarity_order(domains, None)
    assert order == ["a", "c", "d", "b"] and distances[0] == 0
    assert distances[1] == jensen_shannon(domains["a"], domains["c"])
    assert similarity_order(domains, np.array([0, 0.1, 0.9]))[0] == ["b", "d", "c", "a"]


def test_token_frequencies_count_documents_at_equal_distances(data):
    found = token_frequencies(data["b"], None)
    assert found.sum() == pytest.approx(1) and found[EOS] == 0
    assert np.flatnonzero(found).tolist() == list(range(40_001, 40_501))
    few = token_frequencies(data["b"], None, limit=120)  # 510 tokens: every fourth document
    assert np.flatnonzero(few).tolist() == [
        40_001 + 50 * number + token for number in (0, 4, 8) for token in range(50)
    ]


def test_distances_between_counted_documents_go_on_over_shards(tmp_path):
    """Twelve shards of three documents, every fifth of which is counted: not the first of each shard."""
    tasks = [[np.array([3 * task + n + 1, EOS], np.uint16) for n in range(3)] for task in range(12)]
    data = write_data(tmp_path / "data", tasks, [], 64)
    found = np.flatnonzero(token_frequencies(data, None, limit=14))  # of 72 tokens
    assert found.tolist() == [1 + 5 * number for number in range(8)]


@pytest.mark.parametrize("order", ["given", "random", "similarity"])
def test_domains_come_one_after_another_each_for_its_share_of_the_steps(tmp_path, data, order):
    sources = {"a/sea": {"weight": 2}, "a/farm/cows": {}, "b": {}}
    replay = {"share": 0.25, "sources": {"a/Art & Music": {}}}
    plan = build(tmp_path, data, steps=9, sources=sources, domain_order=order, replay=replay)
    domains = list(sources)
    if order == "random":
        domains = random_order(domains, 1234)
        assert sorted(domains) == sorted(sources) and random_order(domains[::-1], 1234) == domains
        assert len({tuple(random_order(domains, seed)) for seed in range(30)}) == 6
    steps = {"a/sea": 5, "a/farm/cows": 2, "b": 2}
    met = [locate(plan, index)[0] for index in range(plan.num_samples)]
    expected = [domain for domain in domains for _ in range(steps[domain] * 8)]
    assert [key for key in met if key in sources] == [
        domain for place, domain in enumerate(expected) if met[place] in sources
    ]
    assert met.count("replay/a/Art & Music") == 18
    for first in range(0, len(met), 8):  # replay keeps its share inside every domain
        assert met[first : first + 8].count("replay/a/Art & Music") == 2
    phases = plan.description["phases"]
    assert [phase["reason"] for phase in phases] == ["domain"] * 3
    if order == "similarity":  # no two topics share a token
        assert [phase["divergence"] for phase in phases] == [1.0, 1.0, 1.0]
