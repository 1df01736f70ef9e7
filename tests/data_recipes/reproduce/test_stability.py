"""Tables of the stability gap from reports made by hand."""

import pytest

from perdure.data_recipes.reproduce import stability


def made_up(back: int | None, end: float) -> dict:
    domain = {"start": 5.0, "worst": 5.5, "worst_tokens": 1024, "depth": 0.5, "recovery_tokens": back}
    return {
        "versions": [{"id": "arm"}],
        "domains": ["general"],
        "loss_matrix": [[9.0], [end]],
        "stability_gap": {
            "arm": {"tokens": [0, 1024], "loss": {"general": [5.0, end]}, "domains": {"general": domain}}
        },
    }


def test_depth_and_recovery_over_seeds():
    reports = [made_up(2048, 4.9), made_up(4096, 4.7)]
    assert stability.gap(reports, "arm", "general") == ["0.500 (0.000)", "1,024", "3,072", "-0.200 (0.141)"]
    assert stability.gap([made_up(None, 5.5)], "arm", "general") == ["0.500", "1,024", "never", "+0.500"]
    some = [made_up(2048, 4.9), made_up(None, 5.5)]
    assert stability.gap(some, "arm", "general")[2] == "2,048 (1 of 2)"


def test_curves_stop_where_an_arm_ends():
    found = stability.training_curve(
        [made_up(2048, 4.9), made_up(2048, 4.7)], "arm", "general", [0, 1024, 2048]
    )
    assert found.mean == [5.0, pytest.approx(4.8), None]
    assert (found.low[1], found.high[1]) == (4.7, 4.9)
