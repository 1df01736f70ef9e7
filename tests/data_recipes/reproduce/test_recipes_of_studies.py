"""The studies' recipes have the versions that their scripts show, made as the scripts say."""

from pathlib import Path

import pytest

from perdure.data_recipes.reproduce import averages, claims, frontier, order_averages, sequence
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.recipe import Recipe, load_recipe

REPRODUCE = Path(__file__).parents[3] / "data_recipes" / "reproduce"


def recipe(name: str) -> Recipe:
    return load_recipe(REPRODUCE / f"{name}.yaml")


def test_each_version_of_the_frontier_differs_from_the_plain_update_in_one_thing():
    found = recipe("frontier")
    names = {name for family in frontier.FAMILIES.values() for name in family}
    assert found.versions.keys() == names
    plain = found.versions["plain"]
    fields = {"mixture", "anchor", "elastic_reset", "reptile"}
    for name, version in found.versions.items():
        if (
            name not in ("base", "plain", "kl_replayed_25", *claims.MOL, *claims.LORA)
            and not version.is_computed
        ):
            dumped, own = plain.model_dump(exclude={"keep"}), version.model_dump(exclude={"keep"})
            assert len([field for field in dumped if dumped[field] != own[field]]) == 1, name
            assert all(dumped[field] == own[field] for field in dumped.keys() - fields), name
    for name in claims.LORA:  # with a peak rate of its own
        dumped, own = plain.model_dump(exclude={"keep"}), found.versions[name].model_dump(exclude={"keep"})
        assert {field for field in dumped if dumped[field] != own[field]} == {"adapter", "schedule"}
    for name, replay in zip((*claims.MOL, "kl_replayed_25"), (*claims.REPLAY, "replay_25"), strict=True):
        dumped, own = found.versions[replay].model_dump(), found.versions[name].model_dump()
        assert {field for field in dumped if dumped[field] != own[field]} == {"anchor"}
    for share, name in zip(range(10, 100, 10), claims.LINE[1:-1], strict=True):
        assert found.versions[name].start.weights == {
            "base": pytest.approx(share / 100),
            "plain": pytest.approx(1 - share / 100),
        }


def test_decays_and_averages_end_with_the_constant_run():
    found = recipe("averages")
    total = num_steps(found, found.versions["constant"])
    for window in averages.WINDOWS:
        decay = found.versions[f"decay_{window}"]
        assert decay.start.step == total - window and num_steps(found, decay) == window
        average = found.versions[f"average_{window}"].start
        assert average.of == "constant" and average.last * found.versions["constant"].keep.every == window
    assert {*averages.SHAPES, "ema", averages.CONTROL} < found.versions.keys()


def test_orders_differ_in_the_order_alone():
    found = recipe("order_averages")
    names = {f"{order}_{rate}" for order in order_averages.ORDERS for rate in order_averages.RATES}
    assert found.versions.keys() == names | {"base"}
    for order in order_averages.ORDERS:
        decay, constant = (found.versions[f"{order}_{rate}"] for rate in ("decay", "constant"))
        assert decay.mixture == constant.mixture and decay.tokens == constant.tokens
        assert found.versions[f"{order}_average"].start.of == f"{order}_constant"


def test_every_arm_of_the_sequence_reads_as_much_of_every_domain():
    found = recipe("sequence")
    trained = {name: version for name, version in found.versions.items() if not version.is_computed}
    for arm in sequence.ARMS:
        for domain, name in zip(sequence.DOMAINS, sequence.path(arm), strict=True):
            version = trained.get(name) or trained.get(f"{name}_raw")
            if version is not None:
                assert list(version.mixture.sources) == [domain]
                assert (
                    version.tokens == trained[sequence.path("plain")[sequence.DOMAINS.index(domain)]].tokens
                )
