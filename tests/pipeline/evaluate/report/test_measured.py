"""What a report reads of several versions along a path."""

from tiny import tiny_recipe

from perdure.pipeline.core.files import write_json
from perdure.pipeline.evaluate.report.gaps import min_acc
from perdure.pipeline.evaluate.report.lineage_paths import paths
from perdure.pipeline.plan.recorded import recorded

STEP = 32 * 8
PLAIN = {"a": 1.0, "b": 1.0}


def version(parent, steps, /, *sources, **start):
    start = start or ({"type": "update", "parent": parent} if parent else {"type": "init"})
    schedule = {"type": "constant", "max_lr": 0.01}
    mixture = {"sources": {source: {} for source in sources}, "max_repetition": 100}
    return {"start": start, "tokens": steps * STEP, "mixture": mixture, "schedule": schedule}


def measurements(recipe, curves: dict, ends: dict) -> tuple[dict, dict]:
    """Lines of metrics and records of versions with these losses on `a` and `b`, by step; and what they were measured on."""
    steps, on = {}, {"max_tokens": 500, "data": {"a": "text of a", "b": "text of b"}}
    for name, points in curves.items():
        steps[name] = {step: {"tokens": step * STEP} for step in range(1, max(points, default=0) + 2)}
        for step, (a, b) in points.items():
            steps[name][step + 1]["heldout_before"] = {"a": a, "b": b}
        total = recipe.versions[name].tokens // STEP
        record = {"steps": total, "tokens": total * STEP, "heldout": dict(zip("ab", ends[name]))}
        write_json(recipe.directory / "versions" / name / "version.json", record)
        write_json(recipe.directory / "versions" / name / "inputs.json", {"measured": on})
    return steps, on


def test_min_acc_holds_the_measurement_at_which_a_domain_was_learned(tmp_path):
    """What was learned badly and got better ever since is at its worst where it was learned."""
    versions = {
        "one": version(None, 10, "a"),
        "two": version("one", 10, "a", "b"),
        "three": version("two", 10, "a"),
        "off": version(None, 2, "a", type="branch", parent="two", step=5),
    }
    recipe = tiny_recipe(tmp_path, versions=versions)
    curves = {
        "one": {0: (9, 9)},
        "two": {0: (6, 9), 5: (4, 5)},
        "three": {0: (3, 4), 5: (2, 3)},
        "off": {0: (4, 5), 1: (2, 4.5)},
    }
    ends = {"one": (6, 9), "two": (3, 4), "three": (1, 2), "off": (1, 4)}
    steps, on = measurements(recipe, curves, ends)

    def found(name):
        return min_acc(recipe, name, steps, paths(list(recipe.sources), recorded(recipe))[name], on, PLAIN)[
            "min_acc"
        ]

    assert found("two") == -6  # a, as `one` left it: 6, 4, 3
    assert found("three") == -(6 + 4) / 2  # b, as `two` left it: 4, 3, 2
    assert found("off") == -(6 + 5) / 2  # left `two` when b was at 5
    # Without measurements on the way of the next version, the end of the one that learned it is known all the same.
    steps["three"] = {}
    assert found("three") == -(6 + 4) / 2


def test_min_acc_is_over_all_versions_since_a_domain_was_learned(tmp_path):
    """De Lange et al. 2023: min over t_|T_i| <= n <= t_|T_k|, here by hand."""
    versions = {
        "one": version(None, 10, "a"),
        "two": version("one", 10, "b"),
        "three": version("two", 10, "b"),
        "off": version(None, 4, "b", type="branch", parent="three", step=4),
        "four": version("three", 10, "b"),
    }
    recipe = tiny_recipe(tmp_path, versions=versions)
    curves = {
        "one": {0: (9, 9), 5: (8, 8)},
        "two": {0: (3, 7), 5: (6, 4)},  # a was learned, and is worst here
        "three": {0: (5, 3), 4: (4, 8), 5: (7, 9)},
        "off": {0: (4, 8), 2: (5, 6)},
        "four": {},
    }
    ends = {"one": (3, 7), "two": (5, 3), "three": (4, 3), "off": (4.5, 3.5), "four": (4, 2)}
    steps, on = measurements(recipe, curves, ends)

    def found(name):
        answer = min_acc(recipe, name, steps, paths(list(recipe.sources), recorded(recipe))[name], on, PLAIN)
        return answer["min_acc"], answer["min_acc_unmeasured"]

    assert found("two") == (-6, [])  # a alone was learned before
    assert found("three") == (-(7 + 9) / 2, [])  # a: of 6, 5, 7, 4; b since `two`: of 8, 9, 3
    # The branch leaves `three` after 4 steps, and does not pass what comes later there.
    assert found("off") == (-(6 + 8) / 2, [])
    assert found("four") == (-(7 + 9) / 2, ["four"])
    # What was measured on other text does not count.
    other = on | {"data": {"a": "other text", "b": "text of b"}}
    write_json(tmp_path / "versions" / "three" / "inputs.json", {"measured": other})
    assert found("three") == (-(6 + 9) / 2, ["three"])
    write_json(tmp_path / "versions" / "three" / "inputs.json", {"measured": on})
    steps["two"] = {}
    assert found("three") == (-(7 + 9) / 2, ["two"])
    assert found("off") == (-(5 + 8) / 2, ["two"])
