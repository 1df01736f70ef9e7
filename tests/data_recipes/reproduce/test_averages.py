"""Averages of checkpoints against decays, and orders under both, from reports made by hand."""

import pytest

from perdure.data_recipes.reproduce import averages, order_averages


def made_up(losses: dict[str, float]) -> dict:
    return {
        "domains": ["english"],
        "versions": [{"id": name} for name in losses],
        "loss_matrix": [[9.0], *([loss] for loss in losses.values())],
    }


RUN = {
    **{"constant": 5.0, "decay_40": 4.9, "decay_80": 4.8, "decay_160": 4.85},
    **{"average_40": 4.9, "average_80": 4.7, "average_160": 4.6},
    **{"linear_80": 4.75, "inverse_sqrt_80": 4.72, "ema": 4.8},
}


def test_averages_beside_decays_of_the_same_steps():
    rows = averages.losses_by_window([made_up(RUN)]).splitlines()[2:]
    assert rows[0] == "| `constant` | 5.000 |  |  |  |"
    assert rows[2] == "| 80 steps | 4.800 | 4.700 | -0.300 | -0.100 |"
    assert averages.losses_by_shape([made_up(RUN)]).splitlines()[-1] == "| `ema` | 4.800 | -0.200 |"
    assert averages.ema_gap(made_up(RUN)) == pytest.approx(4.8 - (4.9 + 4.7 + 4.6) / 3)


def test_claims_about_averages():
    def verdicts(**changed: float) -> list[str]:
        return [row[-1] for row in averages.claim_rows([made_up(RUN | changed)])]

    assert verdicts() == ["reproduced", "reproduced", "reproduced", "not reproduced"]
    assert verdicts(average_40=5.1)[0] == "not reproduced"
    assert verdicts(decay_80=4.5)[1] == "not reproduced"
    assert verdicts(linear_80=5.5)[2] == "not reproduced"
    assert verdicts(ema=5.2)[3] == "reproduced"


def test_orders_are_compared_with_the_random_one_under_the_same_rate():
    means = {"shuffled_decay": 5.0, "easy_decay": 5.1, "hard_decay": 5.2}
    means |= {"shuffled_constant": 5.4, "easy_constant": 5.3, "hard_constant": 5.5}
    means |= {"shuffled_average": 5.05, "easy_average": 5.02, "hard_average": 5.3}
    report = {
        "domains": ["english", "new/a", "new/b"],
        "versions": [{"id": name} for name in means],
        "loss_matrix": [[9.0] * 3, *([6.0, mean - 1, mean + 1] for mean in means.values())],
    }
    assert order_averages.gain(report, "easy", "average") == pytest.approx(-0.03)
    assert order_averages.gain(report, "easy", "decay") == pytest.approx(0.1)
    assert [row[-1] for row in order_averages.claim_rows([report])] == [
        "reproduced",
        "reproduced",
        "not reproduced",
    ]
    assert (
        order_averages.loss_table([report]).splitlines()[3]
        == "| decaying | easy to hard | 5.100 | +0.100 | 6.000 |"
    )
