"""A lineage of small versions to train, and what each of them left."""

import numpy as np
from support import metrics
from tiny import random_documents, tiny_recipe, write_data

from perdure.pipeline.core.files import read_json
from perdure.pipeline.plan.plan import locate, open_plan

STEP = 32 * 8
"""Tokens of a step."""
CONSTANT = {"type": "constant", "max_lr": 0.01, "warmup": 0}
ONLY_A = {"sources": {"a": {}}, "max_repetition": 100}
ALPHA = 0.5


def version(start: dict, steps: int, **changes) -> dict:
    return {"start": start, "tokens": STEP * steps, "schedule": CONSTANT} | changes


VERSIONS = {
    # A main path, and a branch that goes on as the main path does: it must get where the main path gets.
    "whole": version({"type": "init"}, 16, mixture=ONLY_A),
    "branch": version({"type": "branch", "parent": "whole", "step": 7}, 9),
    # The same in two versions: half, and an update that keeps the moments and goes on in the data.
    "half": version({"type": "init"}, 8, mixture=ONLY_A),
    "kept": version({"type": "update", "parent": "half", "moments": "keep"}, 8, mixture=ONLY_A),
    # Another topic nearly alone: `a` gets worse, and its share follows.
    "drift": version(
        {"type": "update", "parent": "kept"},
        13,
        mixture={
            "sources": {"a": {"weight": 0.1}, "b": {"weight": 0.9}},
            "reweight": {"interval": 3 * STEP, "alpha": ALPHA},
            "max_repetition": 100,
        },
        keep=[5],
        weight_decay=0.0,
    ),
    "last": version(
        {"type": "update", "parent": "drift"},
        4,
        mixture={
            "sources": {"b": {}},
            "replay": {"share": 0.25, "from_parents": True},
            "switches": [{"at": 0.5, "sources": {"a": {}, "b": {}}}],
            "max_repetition": 100,
        },
        schedule={"type": "decay"},
    ),
}


def recipe_of(out, **changes):
    if not (out / "data" / "b").exists():
        # `b` counts downwards, so that learning it alone makes the model worse at `a`.
        tasks = [
            [np.append(d[-2::-1], 0).astype(np.uint16) for d in random_documents(n, 60, 300)] for n in (7, 8)
        ]
        write_data(out / "data" / "b", tasks, tasks[0][:12], 300)
    return tiny_recipe(out, versions=VERSIONS | changes)


def directory(recipe, name):
    return recipe.directory / "versions" / name


def weights(recipe, name):
    return read_json(directory(recipe, name) / "version.json")["weights_hash"]


def labels(recipe, name, first=0, count=None) -> int:
    """Tokens of some of a version's samples, padding aside: of the last sample of an epoch, what is left."""
    phases = read_json(directory(recipe, name) / "version.json")["phases"]
    plan = open_plan(directory(recipe, name) / "plan", appended=phases)
    found = [locate(plan, plan.first_sample + first + number) for number in range(count or plan.num_samples)]
    return sum(min(32, plan.sources[key]["tokens"] - 32 * sample) for key, _, sample in found)


def lines(recipe, name, ignored=("tokens_per_second", "step", "tokens", "budget_tokens")):
    return [
        {key: value for key, value in line.items() if key not in ignored}
        for line in metrics(directory(recipe, name))
    ]
