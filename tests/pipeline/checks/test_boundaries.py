"""Bounds of checks at the very value: the last that is right, and the first that is not."""

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.check import problems

STEP = 32 * 8
"""Tokens of a step."""
INFINITE = {"type": "infinite", "max_lr": 0.01, "constant_lr": 0.005, "min_lr": 0.001, "cooldown": 0.25}
RULE = {"interval": STEP, "alpha": 0.5}


def found(version: dict, **changes) -> list[str]:
    """Paths of the problems of version v2, or of all of v1's."""
    mixture = {"sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}}, "max_repetition": 100}
    first = {"start": {"type": "init"}, "tokens": 20 * STEP, "mixture": mixture}
    first |= {"schedule": {"type": "constant", "max_lr": 0.01}}
    versions = {"v1": first | {key: value for key, value in version.items() if key != "v2"}}
    if "v2" in version:
        versions["v2"] = {"tokens": 4 * STEP, "schedule": {"type": "decay"}} | version["v2"]
    about = [problem.path for problem in problems(tiny_recipe("unused", versions=versions, **changes))]
    return [path.removeprefix("versions.") for path in about if path.startswith("versions.")]


def moving(**rule) -> dict:
    sources = {"a": {"weight": 0.7}, "b": {"weight": 0.3}}
    return {"mixture": {"sources": sources, "reweight": RULE | rule, "max_repetition": 100}}


def switching(*steps: int) -> dict:
    switches = [{"at_tokens": step * STEP, "sources": {"b": {}}} for step in steps]
    return {"mixture": {"sources": {"a": {}}, "switches": switches, "max_repetition": 100}}


def wsd(**changes) -> dict:
    return {
        "schedule": {"type": "wsd", "max_lr": 0.01, "min_lr": 0.001, "decay": 0.5, "warmup": 0.25} | changes
    }


@pytest.mark.parametrize(
    ("right", "wrong", "path"),
    [
        (
            {"v2": {"start": {"type": "branch", "parent": "v1", "step": 20}}},
            {"v2": {"start": {"type": "branch", "parent": "v1", "step": 21}}},
            "v2.start.step",
        ),
        ({"keep": [20]}, {"keep": [21]}, "v1.keep.0"),
        ({"keep": {"every": 20}}, {"keep": {"every": 21}}, "v1.keep.every"),
        (
            {"keep": {"every": 1}, "tokens": 10_000 * STEP},
            {"keep": {"every": 1}, "tokens": 10_001 * STEP},
            "v1.keep.every",
        ),
        (moving(alpha=0.99), moving(alpha=0.5, weights={"a": 2.0}), "v1.mixture.reweight.alpha"),
        (moving(floor=0.49), moving(floor=0.5), "v1.mixture.reweight.floor"),
        (switching(7, 8), switching(7, 7), "v1.mixture.switches.1"),
        (switching(19), switching(20), "v1.mixture.switches.0"),
        (
            {"schedule": INFINITE | {"constant_until": 0.75, "warmup": 0.125}},
            {"schedule": INFINITE | {"constant_until": 0.75, "warmup": 0.25}},
            "v1.schedule.constant_until",
        ),
        (
            {"schedule": INFINITE | {"constant_until": 0.25}},
            {"schedule": INFINITE | {"constant_until": 0.249}},
            "v1.schedule.constant_until",
        ),
        (wsd(warmup=0.5), wsd(warmup=0.501), "v1.schedule.warmup"),
        (wsd(decay_ends=[0.6, 1.0]), wsd(decay_ends=[1.0, 1.0]), "v1.schedule.decay_ends"),
        (
            {"schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.01}},
            {"schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.011}},
            "v1.schedule.min_lr",
        ),
    ],
)
def test_the_last_right_value_and_the_first_wrong_one(right, wrong, path):
    assert found(right) == []
    assert found(wrong) == [path]
