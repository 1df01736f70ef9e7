"""The reproduction of schedules: what its arms read, what they cost, and its tables."""

from pathlib import Path

import pytest

from perdure.data_recipes.reproduce import schedules
from perdure.pipeline.plan.lineage import ancestors, resolved_schedule
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.schedule import learning_rate, path_switching_cost
from perdure.pipeline.recipe import load_recipe

REPRODUCE = Path(__file__).parents[3] / "data_recipes" / "reproduce"


@pytest.fixture(params=["schedules.yaml", "schedules_gpu.yaml"])
def recipe(request):
    return load_recipe(REPRODUCE / request.param)


def steps_of(recipe, name: str) -> int:
    return num_steps(recipe, recipe.versions[name])


def lineage_steps(recipe, name: str) -> int:
    return steps_of(recipe, name) + sum(steps for _, steps in ancestors(recipe, name))


@pytest.mark.parametrize("arm", ["rewarm", "constant", "switched", "annealed"])
def test_every_arm_has_read_as_much_at_every_version(recipe, arm):
    part = steps_of(recipe, "rewarm_0")
    assert [lineage_steps(recipe, f"{arm}_{number}") for number in range(5)] == [
        (number + 1) * part for number in range(5)
    ]
    assert steps_of(recipe, "scratch_4") == 5 * part


@pytest.mark.parametrize(
    ("branches", "main", "alpha"), [("switched", "constant", 0.6), ("annealed", "infinite", 0.15)]
)
def test_paths_cost_what_wang_et_al_count(recipe, branches, main, alpha):
    part = steps_of(recipe, "rewarm_0")
    last = recipe.versions[f"{branches}_4"].start.step
    trained = last + sum(steps_of(recipe, f"{main}_{number}") for number in range(4))
    trained += sum(steps_of(recipe, f"{branches}_{number}") for number in range(5))
    assert trained == pytest.approx((5 * (1 + alpha) - alpha) * part)
    assert trained / (15 * part) == pytest.approx(path_switching_cost(5, alpha))


def test_rates_go_on_where_they_left_off_and_all_arms_end_alike(recipe):
    def rate(name: str, step: int) -> float:
        return learning_rate(resolved_schedule(recipe, name), step, steps_of(recipe, name))

    peak, end = rate("constant_0", 40), rate("rewarm_0", steps_of(recipe, "rewarm_0"))
    assert end == pytest.approx(peak / 10)
    for number in range(5):
        for branches, main in (("switched", "constant"), ("annealed", "infinite")):
            name = f"{branches}_{number}"
            left = recipe.versions[name].start.step
            assert rate(name, 0) == rate(f"{main}_{number}", left)
            assert rate(name, steps_of(recipe, name)) == pytest.approx(end)
    assert (
        rate("infinite_4", 0)
        == rate("infinite_0", steps_of(recipe, "infinite_0"))
        == pytest.approx(0.55 * peak)
    )


def made_up() -> dict:
    """A report of the arms `rewarm` and `switched` over two domains, ten tokens a part."""
    versions = [
        {"id": f"rewarm_{number}", "tokens": 10, "lineage_tokens": 10 * number + 10} for number in range(5)
    ]
    versions += [
        {"id": f"switched_{number}", "tokens": 6, "lineage_tokens": 10 * number + 10} for number in range(5)
    ]
    matrix = [
        [9.0, 9.0],
        *([7.0 - 0.1 * number, 6.0] for number in range(5)),
        *([6.5, 5.5] for _ in range(5)),
    ]
    return {"versions": versions, "domains": ["german", "english"], "loss_matrix": matrix}


def test_numbers_of_an_arm_over_seeds():
    reports = [made_up(), made_up()]
    assert schedules.numbers(reports, "rewarm", "german", first=3) == {3: [6.7, 6.7], 4: [6.6, 6.6]}
    assert schedules.numbers(reports, "scratch", "german") == {}


def test_an_arm_of_branches_costs_its_main_path_too():
    assert schedules.cost(made_up(), "rewarm") == 50
    assert schedules.cost(made_up(), "switched") == 5 * 6 + 44
    assert schedules.cost(made_up(), "scratch") == 10 + 20 + 30 + 40 + 50
