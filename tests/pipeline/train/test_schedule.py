"""Exact values of the learning-rate schedules (Ibrahim et al. 2024, with their constants)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.recipe import CosineSchedule, InfiniteSchedule
from perdure.pipeline.train.schedule import learning_rate

INFINITE = InfiniteSchedule(type="infinite", max_lr=3e-4, constant_lr=1.65e-4, min_lr=3e-5)
INVERSE_SQRT = INFINITE.model_copy(update={"cooldown_shape": "inverse_sqrt", "inverse_sqrt_alpha": 10.0})
COSINE = CosineSchedule(type="cosine", max_lr=3e-4, min_lr=3e-5, warmup=0.0)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (INFINITE, 0, 0.0),
        (INFINITE, 50, 1.5e-4),
        (INFINITE, 100, 3e-4),
        (INFINITE, 1600, 2.8023e-4),
        (INFINITE, 3100, 2.3250e-4),
        (INFINITE, 6100, 1.65e-4),
        (INFINITE, 7500, 1.65e-4),
        (INFINITE, 8600, 1.65e-4),
        (INFINITE, 9300, 7.0356e-5),
        (INFINITE, 10_000, 3e-5),
        (INVERSE_SQRT, 100, 3e-4),
        (INVERSE_SQRT, 1600, 2.1004e-4),
        (INVERSE_SQRT, 3100, 1.8563e-4),
        (INVERSE_SQRT, 6100, 1.65e-4),
        (COSINE, 0, 3e-4),
        (COSINE, 2500, 2.6046e-4),
        (COSINE, 5000, 1.65e-4),
        (COSINE, 10_000, 3e-5),
    ],
)
def test_exact_values(schedule, step, expected):
    assert learning_rate(schedule, step, 10_000) == pytest.approx(expected, rel=0, abs=5.1e-9)  # five digits


def test_rewarmed_cosine_starts_at_zero_and_reaches_its_maximum():
    schedule = COSINE.model_copy(update={"warmup": 0.1})
    assert [learning_rate(schedule, step, 100) for step in (0, 5, 10, 100)] == pytest.approx(
        [0, 1.5e-4, 3e-4, 3e-5]
    )


def test_infinite_never_anneals_if_constant_until_the_end():
    schedule = INFINITE.model_copy(update={"constant_until": 1.0})
    assert learning_rate(schedule, 10_000, 10_000) == 1.65e-4


@given(st.integers(1, 300), st.sampled_from([INFINITE, INVERSE_SQRT, COSINE]))
def test_falls_after_warmup_to_the_minimum_in_versions_of_any_length(total, schedule):
    rates = [
        learning_rate(schedule, step, total) for step in range(round(schedule.warmup * total), total + 1)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(schedule.max_lr)
    assert schedule.min_lr * (1 - 1e-9) <= rates[-1] <= schedule.max_lr


@given(st.floats(0, 0.5), st.integers(1, 300))
def test_cosine_ends_at_the_minimum_whatever_the_warmup(warmup, total):
    schedule = COSINE.model_copy(update={"warmup": warmup})
    if round(warmup * total) < total:
        assert learning_rate(schedule, total, total) == pytest.approx(3e-5)
