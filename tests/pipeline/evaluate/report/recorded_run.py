"""A run of finished versions with real plans and made-up losses."""

import json
import math
from copy import deepcopy

import yaml
from tiny import random_data, tiny_recipe

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import record_data
from perdure.pipeline.plan.history import history
from perdure.pipeline.plan.identity import deciding_fields
from perdure.pipeline.plan.plan import consumed_by_version, num_steps
from perdure.pipeline.plan.planning import build_plan
from perdure.pipeline.recipe import Recipe

STEP = 32 * 8
VERSIONS = {
    "base": {
        "start": {"type": "init"},
        "tokens": 20 * STEP,
        "mixture": {
            "sources": {"a": {"weight": 0.7}, "b": {"weight": 0.3}},
            "switches": [{"at": 0.5, "sources": {"a": {}}}],
            "max_repetition": 100,
        },
        "schedule": {"type": "infinite", "max_lr": 0.01, "constant_lr": 0.005, "min_lr": 0.001},
        "keep": [5],
    },
    "next": {
        "start": {"type": "update", "parent": "base"},
        "tokens": 10 * STEP,
        "mixture": {
            "sources": {"b": {"order": "given"}},
            "replay": {"share": 0.25, "sources": {"a": {}}},
            "max_repetition": 100,
        },
        "schedule": {"type": "autoregressive", "max_lr": 0.01, "min_lr": 0.001},
        "selection": {"k": 0.5, "score": "random"},
        "weight_decay": 0.05,
    },
    "plain": {
        "start": {"type": "update", "parent": "base"},
        "tokens": 10 * STEP,
        "mixture": {
            "sources": {"b": {"order": "given"}},
            "replay": {"share": 0.25, "sources": {"a": {}}},
            "max_repetition": 100,
        },
        "schedule": {"type": "autoregressive", "max_lr": 0.01, "min_lr": 0.001},
        "weight_decay": 0.05,
    },
    "side": {
        "start": {"type": "branch", "parent": "base", "step": 5},
        "tokens": 5 * STEP,
        "schedule": {"type": "decay"},
    },
    "moved": {
        "start": {"type": "update", "parent": "next", "moments": "keep"},
        "tokens": 6 * STEP,
        "mixture": {
            "sources": {"a": {}, "b": {}},
            "reweight": {"interval": 2 * STEP, "alpha": 0.1, "weights": {"a": 1.0}},
            "max_repetition": 100,
        },
        "schedule": {"type": "wsd", "max_lr": 0.01, "min_lr": 0.001},
    },
}
WAITING = {
    "start": {"type": "update", "parent": "base"},
    "tokens": 4 * STEP,
    "mixture": {"sources": {"a": {}}, "max_repetition": 100},
    "schedule": {"type": "constant", "max_lr": 0.002},
}


def recipe_in(out) -> Recipe:
    changes = {"versions": deepcopy(VERSIONS), "evaluation": {"max_tokens": 500, "interval": 5}}
    return tiny_recipe(out, **changes)


def make_data(recipe: Recipe) -> dict:
    data, _, _ = random_data(recipe.directory)
    for directory in data.values():
        manifest = read_json(directory / "manifest.json") | {"command": "perdure data"}
        manifest["counts"]["documents"] = {"in": 144, "dropped": {}, "out": 144}
        write_json(directory / "manifest.json", manifest)
    record_data(recipe, data)
    return data


def write_version(recipe: Recipe, name: str, number: int, data: dict, on: dict) -> None:
    """All that a finished version leaves but its weights."""
    version, directory = recipe.versions[name], recipe.paths.version(name).directory
    plan = build_plan(directory / "plan", recipe, name, data, {}, history(recipe, name))
    steps = num_steps(recipe, version)
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    identity = deciding_fields(recipe, name) | {"data": {"a": "data of a"}}
    write_json(directory / "inputs.json", {"command": name, "measured": on, "identity": identity})
    lines = [
        {
            "step": step,
            "tokens": step * STEP,
            "loss": 5.0,
            "loss_selected": None,
            "loss_unselected": None,
            "lr": 0.01,
            "selected_fraction": 1.0,
            "tokens_per_second": 100.0,
            "mfu": None,
            "source_loss": dict.fromkeys(plan.keys, 5.0),
            **({"heldout_before": {"a": 5.0 + number, "b": 6.0}} if step in (1, 6) else {}),
        }
        for step in range(1, steps + 1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for file, loss in (("eval_initial.json", 5.5), ("eval.json", 4 - math.sqrt(number))):
        measured = {"loss": loss, "tokens": 500, "documents": 20, "bytes": 2000, "bits_per_byte": loss / 3}
        write_json(directory / file, {"measured": on, "domains": {"a": measured, "b": measured}})
    write_json(
        directory / "version.json",
        {
            "selection": version.selection and version.selection.model_dump(),
            "mixture": version.mixture.model_dump(),
            "steps": steps,
            "tokens": steps * STEP,
            "lineage_tokens": steps * STEP,
            "consumed": {key: count * 32 for key, count in consumed_by_version(plan).items()},
            "selection_counts": {"scored": 100, "selected": 50 if version.selection else 100},
            "tokens_per_second": 100.0,
            "parallel": recipe.parallel.model_dump(),
            "weights_hash": f"{number:064x}",
            "heldout": {"a": 4.0, "b": 5.0},
            "seconds": 3.0,
            "device": "cpu",
            "device_seconds": 3.0,
            "lost_device_seconds": 0.0,
        },
    )
    finish(directory, {})
