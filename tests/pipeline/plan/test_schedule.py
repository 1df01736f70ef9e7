"""Exact values of the learning-rate schedules (Ibrahim et al. 2024, with their constants)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.pipeline.plan.schedule import learning_rate, path_switching_cost, phase_of, resolve
from perdure.pipeline.recipe import (
    AutoregressiveSchedule,
    ConstantSchedule,
    CosineSchedule,
    DecaySchedule,
    InfiniteSchedule,
    WSDSchedule,
)

INFINITE = InfiniteSchedule(type="infinite", max_lr=3e-4, constant_lr=1.65e-4, min_lr=3e-5)
INVERSE_SQRT = INFINITE.model_copy(update={"cooldown_shape": "inverse_sqrt", "inverse_sqrt_alpha": 10.0})
COSINE = CosineSchedule(type="cosine", max_lr=3e-4, min_lr=3e-5, warmup=0.0)
CONSTANT = ConstantSchedule(type="constant", max_lr=3e-4, warmup=0.01)
WSD = WSDSchedule(type="wsd", max_lr=3e-4, min_lr=3e-5)
WSD_S = WSD.model_copy(update={"decay_ends": (0.25, 0.5, 1.0), "decay_shape": "inverse"})
REUSE = DecaySchedule(type="decay", max_lr=3e-5, min_lr=3e-7)


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
        (CONSTANT, 0, 0.0),
        (CONSTANT, 50, 1.5e-4),
        (CONSTANT, 100, 3e-4),
        (CONSTANT, 10_000, 3e-4),
        (WSD, 100, 3e-4),
        (WSD, 9000, 3e-4),
        (WSD, 9500, 1.65e-4),
        (WSD, 10_000, 3e-5),
        (WSD.model_copy(update={"decay_shape": "exponential"}), 9500, 9.4868e-5),  # sqrt(3e-4 x 3e-5)
        (WSD.model_copy(update={"decay_shape": "cosine"}), 9250, 2.60459e-4),
        (WSD_S, 2250, 3e-4),  # cycles of 2500, 2500 and 5000 steps, the last tenth of each decays
        (WSD_S, 2375, 2 / (1 / 3e-4 + 1 / 3e-5)),
        (WSD_S, 2500, 3e-5),
        (WSD_S, 2501, 3e-4),
        (WSD_S, 4750, 3e-4),
        (WSD_S, 5000, 3e-5),
        (WSD_S, 9500, 3e-4),
        (WSD_S, 10_000, 3e-5),
        (REUSE, 0, 3e-5),
        (REUSE, 5000, 1.515e-5),
        (REUSE, 10_000, 3e-7),
        (REUSE.model_copy(update={"shape": "linear"}), 5000, 1.515e-5),
        (REUSE.model_copy(update={"shape": "exponential"}), 5000, 3e-6),
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


@given(st.integers(1, 300), st.sampled_from([INFINITE, INVERSE_SQRT, COSINE, WSD, CONSTANT]))
def test_falls_after_warmup_to_the_minimum_in_versions_of_any_length(total, schedule):
    rates = [
        learning_rate(schedule, step, total) for step in range(round(schedule.warmup * total), total + 1)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(schedule.max_lr)
    lowest = schedule.max_lr if schedule is CONSTANT else schedule.min_lr
    assert lowest * (1 - 1e-9) <= rates[-1] <= schedule.max_lr


@given(st.floats(0, 0.5), st.integers(1, 300))
def test_cosine_ends_at_the_minimum_whatever_the_warmup(warmup, total):
    schedule = COSINE.model_copy(update={"warmup": warmup})
    if round(warmup * total) < total:
        assert learning_rate(schedule, total, total) == pytest.approx(3e-5)


@pytest.mark.parametrize(("progress", "expected"), [(0.25, "2.60e-04"), (0.5, "1.65e-04"), (1, "3.00e-05")])
def test_rewarmed_cosine_at_shares_of_its_decay(progress, expected):
    schedule = COSINE.model_copy(update={"warmup": 0.01})
    assert f"{learning_rate(schedule, round(1000 + 99_000 * progress), 100_000):.2e}" == expected


def test_a_decay_goes_on_from_its_parents_rate_to_a_hundredth():
    schedule = resolve(DecaySchedule(type="decay"), 500, 1000, 3e-5)
    assert (schedule.max_lr, schedule.min_lr) == (3e-5, pytest.approx(3e-7))
    assert learning_rate(schedule, 0, 1000) == 3e-5


def test_autoregressive_peaks_fall_as_one_cosine_over_all_rounds():
    """TiC-LM: round i's peak = cosine_decay(steps_prev + w, steps_prev + steps_new), warmup w left out of the decay."""
    schedule = AutoregressiveSchedule(type="autoregressive", max_lr=3e-4, min_lr=3e-5, warmup=0.1)
    peaks = []
    for number in range(6):
        resolved = resolve(schedule, number * 1000, 1000, None)
        peaks.append(resolved.max_lr)
        assert learning_rate(resolved, 100, 1000) == resolved.max_lr
        assert learning_rate(resolved, 1000, 1000) == pytest.approx(3e-5)
        one_cosine = COSINE.model_copy(update={"warmup": 100 / ((number + 1) * 1000)})
        assert resolved.max_lr == learning_rate(one_cosine, number * 1000 + 100, (number + 1) * 1000)
    assert peaks[0] == 3e-4
    assert all(later < sooner for sooner, later in pairwise(peaks))


def test_path_switching_cost_of_the_paper():
    assert [round(path_switching_cost(n, 0.6), 3) for n in (1, 2, 3, 4, 5)] == [1.0, 0.867, 0.7, 0.58, 0.493]


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        # The last step of each phase, of 10,000; the rate of a constant phase's last step is still the constant one.
        (INFINITE, {"warmup": 99, "cooldown": 6099, "constant": 8600, "annealing": 10_000}),
        (CONSTANT, {"warmup": 99, "constant": 10_000}),
        (COSINE.model_copy(update={"warmup": 0.1}), {"warmup": 999, "decay": 10_000}),
        (WSD, {"warmup": 99, "constant": 9000, "decay": 10_000}),
        (REUSE, {"decay": 10_000}),
    ],
)
def test_phases_end_where_they_do(schedule, ends):
    found = {phase_of(schedule, step, 10_000): step for step in range(10_001)}
    assert found == ends


def test_a_constant_phase_is_where_the_rate_is_constant():
    """And its first and last step: cycles of WSD-S among them."""
    for schedule, rate in ((INFINITE, 1.65e-4), (INVERSE_SQRT, 1.65e-4), (WSD, 3e-4), (WSD_S, 3e-4)):
        for total in (40, 1000):
            for step in range(round(schedule.warmup * total), total + 1):
                constant = learning_rate(schedule, step, total) == rate
                assert (phase_of(schedule, step, total) == "constant") is constant


def test_phases_by_name():
    names = [phase_of(INFINITE, step, 10_000) for step in (50, 3000, 8000, 9000)]
    assert names == ["warmup", "cooldown", "constant", "annealing"]
    assert [phase_of(WSD_S, step, 10_000) for step in (1000, 2400, 3000)] == ["constant", "decay", "constant"]
    assert phase_of(REUSE, 1, 10) == phase_of(COSINE, 1, 10) == "decay"
