"""When losses of two devices agree."""

from math import inf, nan

import pytest

from perdure.data_recipes.bench_agree import agreement


def test_losses_agree_within_the_tolerance_and_nan_never_does():
    assert agreement([[6.0, 5.5], [6.0, 5.625]], 0.2) == {"difference": 0.125, "exact": True}
    assert agreement([[6.0, 5.5], [6.0, 5.625]], 0.1)["exact"] is False


@pytest.mark.parametrize("wrong", [nan, inf])
def test_a_loss_that_is_no_number_never_agrees(wrong):
    assert agreement([[6.0, 5.5, 5.0], [6.0, wrong, 5.0]], 0.2)["exact"] is False


def test_a_device_that_failed_is_no_agreement_and_one_alone_is_not_compared():
    assert (
        agreement([[6.0], "CUDA error: no kernel image"], 0.2)
        == agreement(["Killed"], 0.2)
        == {"exact": False}
    )
    assert agreement([[6.0]], 0.2) == {}
