"""What a lineage consumed, against a count of every single sample."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.plan.consumption import ledger, replay_pools, samples_consumed, start_of
from perdure.pipeline.plan.mixture import block_counts
from perdure.pipeline.plan.plan import Plan, locate, make_plan

SIZES = {"a": 7, "b": 12, "c": 5}
"""Samples an epoch."""


def entry(source: str, order: str = "shuffled", pool: dict | None = None, size: int | None = None) -> dict:
    return {
        "source": source,
        "order": order,
        "buckets": None,
        "documents": 3,
        "tokens": SIZES[source] * 4,
        "samples_per_epoch": size or SIZES[source],
        "data_hash": source,
        "scores": None,
        "pool": pool,
    }


def plan_of(counts: list[dict[str, int]], history: list, steps: list[int], orders: dict[str, str]) -> Plan:
    """A plan with a phase per entry of `counts` (samples per block by key), each of some length."""
    sources = {}
    for key in dict.fromkeys(key for phase in counts for key in phase):
        name = key.removeprefix("replay/")
        sources[key] = entry(name, orders.get(key, "shuffled"))
        sources[key]["start"] = start_of(history, key, sources[key], 1, 4)
    firsts = [sum(steps[:number]) for number in range(len(counts))]
    phases = [{"first_sample": first, "counts": phase, "reason": ""} for first, phase in zip(firsts, counts)]
    return make_plan(
        {
            "seed": 1,
            "seq_length": 4,
            "first_sample": 0,
            "num_samples": sum(steps),
            "sources": sources,
            "phases": phases,
        }
    )


def samples(plan: Plan, end: int | None = None) -> list[tuple[str, int, int]]:
    return [locate(plan, index) for index in range(plan.end if end is None else end)]


mixtures = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c", "replay/a", "replay/b"]), st.integers(1, 5), min_size=1),
    min_size=1,
    max_size=3,
)


@given(
    st.lists(
        st.tuples(mixtures, st.lists(st.integers(1, 15), min_size=3, max_size=3)), min_size=3, max_size=3
    )
)
def test_consumed_and_remaining_fill_every_source_across_three_versions(versions):
    history, seen, met = [], {}, set()
    for counts, steps in versions:
        plan = plan_of(counts, history, steps[: len(counts)], {})
        for key, epoch, sample in samples(plan):
            if "/" in key:
                continue
            # Nothing repeats before everything was seen.
            if epoch == 0:
                assert (key, sample) not in met
            met.add((key, sample))
            seen[key] = seen.get(key, 0) + 1
        history = [(plan, plan.end), *history]
    for source, line in ledger(history).items():
        assert line["consumed"] + line["remaining"] == line["total"] == SIZES[source] * 4
        assert line["consumed"] == len({sample for key, sample in met if key == source}) * 4
        assert line["repeated"] == seen.get(source, 0) * 4 - line["consumed"]


def test_padding_is_no_token_of_a_source():
    plan = plan_of([{"a": 1, "replay/b": 1}], [], [32], {})
    plan.sources["a"]["tokens"] = 26  # the last of seven samples holds two
    found = [ledger([(plan, end)])["a"] for end in (0, 12, 14, 16, 32)]
    assert {line["total"] for line in found} == {26}
    assert [line["remaining"] for line in found] == [26, 2, 0, 0, 0]
    assert [line["consumed"] for line in found] == [0, 24, 26, 26, 26]
    assert [line["repeated"] for line in found] == [0, 0, 0, 4, 2 * 26 + 2 * 4 - 26]
    assert ledger([(plan, 32)])["b"] == {
        "total": 48,
        "consumed": 0,
        "remaining": 48,
        "repeated": 0,
        "replayed": 64,
    }


def test_of_a_source_that_changed_only_the_data_that_was_seen_last_counts():
    old, new = plan_of([{"a": 1}], [], [6], {}), plan_of([{"a": 1}], [], [2], {})
    old.sources["a"]["data_hash"] = "before"
    assert ledger([(new, 2), (old, 6)])["a"] == ledger([(new, 2)])["a"]
    assert ledger([(new, 2)])["a"] | {"consumed": 8, "remaining": 20} == ledger([(new, 2)])["a"]


def test_another_order_or_other_data_are_another_stream():
    first = plan_of([{"a": 1}], [], [4], {})
    history = [(first, 4)]
    assert start_of(history, "a", entry("a"), 1, 4) == samples_consumed((first, 4), "a") == 4
    assert start_of(history, "a", entry("a", "given"), 1, 4) == 0
    assert start_of(history, "a", entry("a") | {"data_hash": "other"}, 1, 4) == 0
    assert start_of(history, "a", entry("a"), 2, 4) == 0
    assert start_of(history, "a", entry("a"), 1, 8) == 0  # samples of another length
    assert start_of(history, "b", entry("b"), 1, 4) == 0


def test_a_version_goes_on_after_ancestors_that_lie_behind_one_without_the_source():
    first = plan_of([{"a": 1}], [], [4], {})
    second = plan_of([{"b": 1}], [(first, 4)], [5], {})
    third = plan_of([{"a": 1}], [(second, 5), (first, 4)], [3], {})
    assert {sample for _, _, sample in samples(first)} | {s for _, _, s in samples(third)} == set(range(7))


def test_a_pool_is_of_what_was_new_even_if_more_was_replayed():
    """Seven samples of `a` were replayed and two were new; of `b` all was replayed, by one ancestor more than by the other."""
    new = plan_of([{"a": 1, "replay/b": 2}], [], [6], {})
    old = plan_of([{"replay/a": 5, "replay/b": 1}], [], [12], {"replay/b": "given"})
    for history in ([(new, 6), (old, 12)], [(old, 12), (new, 6)]):
        found = {source: (key, distinct) for source, (key, _, distinct) in replay_pools(history).items()}
        assert found == {"a": ("a", 2), "b": ("replay/b", 4)}
        assert replay_pools(history)["b"][1]["order"] == "shuffled"
    assert {source: pool[0] for source, pool in replay_pools([(old, 12)]).items()} == {
        "a": "replay/a",
        "b": "replay/b",
    }


def test_a_pool_replays_exactly_what_was_consumed():
    first = plan_of([{"a": 1, "b": 3}], [], [8], {})
    found = replay_pools([(first, 8)])
    assert {source: distinct for source, (_, _, distinct) in found.items()} == {"a": 2, "b": 6}
    for order in ("shuffled", "given"):
        sources = {}
        for source, (key, original, distinct) in found.items():
            described = {"key": key, "order": original["order"], "samples_per_epoch": SIZES[source]}
            sources[f"replay/{source}"] = entry(source, order, described, distinct) | {"start": 0}
        counts = dict(zip(sources, block_counts([Fraction(1, 4), Fraction(3, 4)])))
        plan = make_plan(
            {
                "seed": 1,
                "seq_length": 4,
                "first_sample": 0,
                "num_samples": 16,
                "sources": sources,
                "phases": [{"first_sample": 0, "counts": counts, "reason": ""}],
            }
        )
        consumed = [(key, sample) for key, _, sample in samples(first)]
        replayed = [(key.removeprefix("replay/"), sample) for key, _, sample in samples(plan)]
        assert sorted(replayed) == sorted(consumed * 2)  # twice over: with equal chances
        if order == "given":
            for source in ("a", "b"):
                mine = [sample for name, sample in replayed if name == source]
                assert mine == [sample for name, sample in consumed if name == source] * 2
