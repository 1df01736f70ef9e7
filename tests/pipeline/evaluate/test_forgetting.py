"""Measures of forgetting: exact values, and SciPy's for the test of Kolmogorov and Smirnov."""

import numpy as np
import pytest

from perdure.pipeline.evaluate.forgetting import (
    forgotten,
    harmonic_mean,
    ks_p_value,
    membership_auc,
    priv_leak,
    utility,
)


def test_exact_values():
    assert priv_leak(0.6, 0.5) == pytest.approx(-20)
    assert (
        priv_leak(0.5, 0.5) == 0 and priv_leak(0.4, 0.5) == pytest.approx(20) and priv_leak(0.5, 1.0) is None
    )
    assert harmonic_mean([0.5, 0.25, 1]) == pytest.approx(0.428571, abs=1e-6)
    assert harmonic_mean([0.5, 0.0]) == 0 and harmonic_mean([]) is None
    assert utility([np.log(2), np.log(4), 0.0]) == pytest.approx(0.428571, abs=1e-6)


def test_an_attack_by_loss():
    members, others = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    assert membership_auc(members, others) == pytest.approx((1 + 0.75 + 0.5) / 3)
    assert membership_auc(members, members) == 0.5
    assert membership_auc(members, members + 9) == 1 and membership_auc(members + 9, members) == 0


@pytest.mark.parametrize(
    ("sizes", "shift"), [((8, 8), 1.0), ((3, 7), 0.3), ((40, 60), 0.3), ((200, 150), 0.2), ((500, 500), 1.0)]
)
def test_kolmogorov_and_smirnov_as_scipy(sizes, shift):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=sizes[0]), rng.normal(size=sizes[1]) + shift
    expected = stats.ks_2samp(left, right, method="exact").pvalue
    assert ks_p_value(left, right) == pytest.approx(expected, rel=1e-9)
    assert ks_p_value(left, left) == 1


def test_few_and_many_losses():
    """Of all 12870 orders of two times eight values, 240 are 6/8 apart or farther."""
    few = np.arange(8.0)
    assert ks_p_value(few, few + 6) == pytest.approx(240 / 12870)
    many = np.random.default_rng(0).normal(size=(2, 600))
    expected = pytest.importorskip("scipy.stats").ks_2samp(*many, method="exact").pvalue
    assert ks_p_value(*many) == pytest.approx(expected, rel=0.05)


def test_losses_that_are_not_finite_and_none_at_all():
    lost, none = np.array([1.0, np.inf, np.inf]), np.zeros(0)
    told = forgotten(lost, np.array([2.0, np.inf]), [], (lost, lost))
    assert (told["loss"], told["heldout_loss"], told["ks_p"]) == (None, None, 1)
    assert told["auc"] == pytest.approx((1 + 1 / 4 + 1 / 4) / 3)
    assert set(forgotten(none, none, [], (none, none)).values()) == {None}
    assert forgotten(lost, none, [], (none, lost))["ks_p"] is None


def test_what_is_not_there_is_none():
    losses = np.array([1.0, 2.0])
    assert forgotten(losses, None, [], None) == {
        "loss": 1.5,
        "heldout_loss": None,
        "ks_p": None,
        "auc": None,
        "priv_leak": None,
        "utility": None,
    }
    whole = forgotten(losses, losses + 1, [0.0], (losses + 1, losses + 1))
    assert (whole["auc"], whole["priv_leak"], whole["utility"]) == (0.875, pytest.approx(-75), 1)
