"""A made-up run on disk, for tests of the report only: plausible files without the hours of making them.

`python tests/pipeline/evaluate/made_up.py DIRECTORY` writes one to look at.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import yaml

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.evaluate.record import measured_on
from perdure.pipeline.evaluate.report.page import render_page
from perdure.pipeline.evaluate.report.summary import summarize
from perdure.pipeline.plan.identity import deciding_fields
from perdure.pipeline.plan.mixture import is_replayed, mixture_shares, trained_fraction
from perdure.pipeline.plan.plan import num_steps
from perdure.pipeline.plan.schedule import learning_rate
from perdure.pipeline.recipe import Recipe

RECIPE = {
    "name": "made-up",
    "sources": {
        name: {"reader": {"type": "jsonl", "path": f"texts/{name}.jsonl"}}
        for name in ("prose", "clean", "code")
    },
    "tokenizer": {"type": "train", "vocab_size": 8192, "sources": ["prose", "code"]},
    "model": {
        "type": "llama",
        "num_layers": 4,
        "hidden_size": 192,
        "ffn_hidden_size": 512,
        "num_attention_heads": 6,
        "num_query_groups": 2,
    },
    "training": {"seq_length": 256, "global_batch_size": 16},
    "versions": {
        "base": {
            "start": {"type": "init"},
            "tokens": 1_200_000,
            "mixture": {"sources": {"prose": {}}},
            "schedule": {"type": "infinite", "max_lr": 3e-3, "constant_lr": 1.6e-3, "min_lr": 3e-4},
        },
        "reference": {
            "start": {"type": "update", "parent": "base"},
            "tokens": 400_000,
            "mixture": {"sources": {"clean": {}}},
            "schedule": {"type": "cosine", "max_lr": 1e-3, "min_lr": 1e-4},
        },
        "update": {
            "start": {"type": "update", "parent": "base"},
            "tokens": 800_000,
            "mixture": {
                "sources": {"code": {"order": "easy_to_hard"}},
                "replay": {"share": 0.1, "sources": {"prose": {}}},
                "perplexity_model": "base",
            },
            "schedule": {"type": "cosine", "max_lr": 2e-3, "min_lr": 2e-4},
            "selection": {"k": 0.6, "reference": "reference"},
        },
        "control": {
            "start": {"type": "update", "parent": "base"},
            "tokens": 800_000,
            "mixture": {"sources": {"code": {"order": "easy_to_hard"}}, "perplexity_model": "base"},
            "schedule": {"type": "cosine", "max_lr": 2e-3, "min_lr": 2e-4},
            "selection": {"k": 0.6, "reference": "reference"},
        },
    },
}

ALL = ["base", "reference", "update", "control"]
INITIAL = {"prose": 9.0, "clean": 9.0, "code": 9.0}
LOSSES = {
    "base": {"prose": 4.5, "clean": 4.25, "code": 6.0},
    "reference": {"prose": 4.75, "clean": 4.0, "code": 6.25},
    "update": {"prose": 4.625, "clean": 4.375, "code": 4.5},
    "control": {"prose": 5.5, "clean": 5.25, "code": 4.375},
}
"""Powers of two apart, so that differences are exact."""

ODD_TOKENS = [
    "<script>alert(1)</script>",
    "\n",
    "    ",
    "\ufffd",
    "\x00",
    "\x1b[31m",
    "é",
    "日本",
    "&amp;",
    "\t",
    "",
]


def make_recipe(out: Path, **changes) -> Recipe:
    return Recipe.model_validate(RECIPE | {"out": out} | changes)


def write_run(recipe: Recipe, finished: list[str], odd_tokens: bool = True) -> dict[str, Path | None]:
    """Writes the files of some finished versions; returns the sources' data directories."""
    data = {source: _write_data(recipe, source, i) for i, source in enumerate(recipe.sources)}
    for index, name in enumerate(recipe.versions):
        if name in finished:
            _write_version(recipe, name, index, odd_tokens, measured_on(recipe, data))
    return data


def _write_data(recipe: Recipe, source: str, index: int) -> Path:
    directory = recipe.directory / "data" / f"{source}@{index:08x}"
    directory.mkdir(parents=True)
    dropped = {"exact_duplicate": 214 * index, "near_duplicate": 97, "too_short": 1203, "broken_json": 2}
    documents = 5230 + 1811 * index
    counts = {
        "documents": {"in": documents + sum(dropped.values()), "dropped": dropped, "out": documents},
        "train": {"documents": documents - 104, "tokens": 1_510_223 + 200_111 * index},
        "heldout": {"documents": 104, "tokens": 30_411, "bytes": 121_040},
    }
    command = "perdure run data_recipes/made-up.yaml --set seed=7"
    finish(
        directory,
        {"source": source, "tokenizer_hash": "c0ffee" * 8, "counts": counts, "command": command, "files": {}},
    )
    return directory


def _write_version(recipe: Recipe, name: str, index: int, odd_tokens: bool, on: dict) -> None:
    version, directory = recipe.versions[name], recipe.directory / "versions" / name
    directory.mkdir(parents=True)
    steps, per_step = (
        num_steps(recipe, version),
        recipe.training.seq_length * recipe.training.global_batch_size,
    )
    shares = mixture_shares(version.mixture, k=trained_fraction(version))
    parent = getattr(version.start, "parent", None)
    before = LOSSES[parent] if parent else INITIAL
    lines = _metric_lines(version, steps, per_step, before, LOSSES[name], np.random.default_rng(index))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(directory / "eval.json", {"measured": on} | _evaluation(name, steps, LOSSES[name]))
    if parent is None:
        write_json(directory / "eval_initial.json", {"measured": on} | _evaluation(name, 0, INITIAL))
    if version.selection:
        write_json(directory / "passage.json", _passage(odd_tokens))
        write_json(directory / "chosen.json", _chosen())
    command = "perdure run data_recipes/made-up.yaml --set seed=7"
    content = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    (directory / "recipe.yaml").write_text(content)
    identity = deciding_fields(recipe, name)
    write_json(directory / "inputs.json", {"command": command, "measured": on, "identity": identity})
    write_json(
        directory / "version.json",
        {
            "id": name,
            "index": index,
            "parent": parent,
            "start": version.start.type,
            "status": "finished",
            "steps": steps,
            "tokens": steps * per_step,
            "lineage_tokens": steps * per_step + (1_200_128 if parent else 0),
            "schedule": version.schedule.model_dump(),
            "selection": version.selection and version.selection.model_dump(),
            "mixture": version.mixture.model_dump(),
            "consumed": {key: round(float(share) * steps * per_step) for key, share in shares.items()},
            "selection_counts": {"scored": 800_000, "selected": 480_000 if version.selection else 800_000},
            "tokens_per_second": 7421.5,
            "parallel": recipe.parallel.model_dump(),
            "weights_hash": f"{index:064x}",
            "parent_weights_hash": f"{0:064x}" if parent else None,
            "data": {source: f"{source}-hash" for source in recipe.sources},
            "tokenizer_hash": "c0ffee" * 8,
            "seconds": 161.7,
        },
    )
    finish(directory, {"files": {}})  # tests edit them


def _metric_lines(version, steps: int, per_step: int, before: dict, after: dict, random) -> list[dict]:
    lines = []
    shares = mixture_shares(version.mixture, k=trained_fraction(version))
    replayed = float(sum(share for key, share in shares.items() if is_replayed(key)))
    for step in range(1, steps + 1):
        decay = math.exp(-6 * step / steps)
        loss = {
            key: after[source] + (before[source] - after[source]) * decay + random.normal(0, 0.12)
            for key, source in ((key, key.removeprefix("replay/")) for key in shares)
        }
        mean = sum(float(shares[key]) * value for key, value in loss.items())
        lines.append(
            {
                "step": step,
                "tokens": step * per_step,
                "budget_tokens": step * per_step,
                "trained_tokens": round(per_step * (replayed + (1 - replayed) * trained_fraction(version))),
                "replayed_tokens": round(per_step * replayed),
                "loss": mean,
                "loss_selected": mean + 0.9 if version.selection else None,
                "loss_unselected": mean - 1.3 if version.selection else None,
                "lr": learning_rate(version.schedule, step, steps),
                "grad_norm": 1.0 + decay,
                "selected_fraction": 0.6 + random.normal(0, 0.004) if version.selection else 1.0,
                "tokens_per_second": 7421.5,
                "mfu": 0.415,
                "source_loss": loss,
            }
        )
    return lines


def _evaluation(name: str, step: int, losses: dict) -> dict:
    return {
        "version": name,
        "step": step,
        "domains": {
            domain: {
                "loss": loss,
                "tokens": 30_000,
                "documents": 101,
                "bytes": 120_000,
                "bits_per_byte": loss / 2.77,
            }
            for domain, loss in losses.items()
        },
    }


def _passage(odd_tokens: bool) -> dict:
    text = "def|| mean|(|values|:| list|[|float|]|)| ->| float|:|\n"
    text += "   | total| =| sum|(|values|)|\n   | return| total| /| len|(|values|)|\n|\n"
    tokens = [part or " " for part in text.split("|")] * 6 + (ODD_TOKENS if odd_tokens else [])
    random = np.random.default_rng(3)
    loss = random.gamma(1.6, 1.6, len(tokens)).round(4).tolist()
    reference = [max(0.0, round(value - random.normal(0.4, 0.9), 3)) for value in loss]
    cut = np.quantile(np.subtract(loss, reference), 0.4)
    selected = [bool(a - b > cut) for a, b in zip(loss, reference)]
    return {
        "source": "code",
        "tokens": tokens,
        "loss": loss,
        "reference_loss": [None, *reference[1:]],
        "selected": [False, *selected[1:]],
    }


def _chosen() -> dict:
    edges = [0.25 * i for i in range(-16, 33)]
    bell = [round(4000 * math.exp(-((edge - 0.4) ** 2))) for edge in edges[:-1]]
    selected = [count if edge >= 0 else 0 for edge, count in zip(edges, bell)]
    topics = {
        "cooking": {"scored": 12_000, "selected": 9_000},
        "war <& peace": {"scored": 8_000, "selected": 2_000},
    }
    return {
        "tokens": sum(bell),
        "selected": sum(selected),
        "excess_edges": edges,
        "excess_selected": selected,
        "excess_other": [count - taken for count, taken in zip(bell, selected)],
        "topics": {"code": topics},
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    made = make_recipe(target / "run")
    html = render_page(summarize(made, write_run(made, list(made.versions), odd_tokens=False)))
    (target / "index.html").write_text(html)
    print(target / "index.html", len(html), "bytes")
