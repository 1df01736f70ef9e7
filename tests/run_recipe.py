"""A whole recipe of two versions, and the command line over it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import yaml

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.remembered_hashes import VERIFIED

RECIPE = {
    "name": "small",
    "sources": {
        "prose": {"reader": {"type": "jsonl", "path": "prose.jsonl"}, "heldout_fraction": 0.1},
        "code": {
            "reader": {"type": "python_code", "packages": ["json", "logging", "http"]},
            "heldout_fraction": 0.2,
        },
    },
    "tokenizer": {"type": "train", "vocab_size": 400, "sources": ["prose", "code"]},
    "model": {
        "type": "llama",
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 64,
        "num_attention_heads": 4,
        "num_query_groups": 2,
    },
    "training": {
        "seq_length": 64,
        "micro_batch_size": 4,
        "global_batch_size": 8,
        "checkpoint_interval": 4,
        "log_interval": 4,
    },
    "versions": {
        "base": {
            "start": {"type": "init"},
            "tokens": 64 * 8 * 12,
            "mixture": {"sources": {"prose": {}}, "max_repetition": 50},
            "schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001, "warmup": 0.1},
        },
        "update": {
            "start": {"type": "update", "parent": "base"},
            "tokens": 64 * 8 * 16,
            "mixture": {
                "sources": {"code": {"order": "easy_to_hard"}},
                "replay": {"share": 0.25, "sources": {"prose": {}}},
                "perplexity_model": "base",
                "max_repetition": 50,
            },
            "selection": {"k": 0.6, "reference": "base"},
            "schedule": {"type": "infinite", "max_lr": 0.01, "constant_lr": 0.005, "min_lr": 0.001},
        },
    },
    "evaluation": {"max_tokens": 2000},
}


def write_recipe(directory: Path) -> Path:
    """The recipe with its corpus: sentences of a made-up language, some of them twice."""
    rng = random.Random(5)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(300)]
    documents = [" ".join(rng.choices(words, k=rng.randint(20, 120))) for _ in range(150)]
    lines = [
        json.dumps({"id": f"doc-{number}", "text": text})
        for number, text in enumerate(documents + documents[:10])
    ]
    (directory / "prose.jsonl").write_text("\n".join(lines) + "\n")
    tree = RECIPE | {
        "sources": json.loads(
            json.dumps(RECIPE["sources"]).replace("prose.jsonl", str(directory / "prose.jsonl"))
        )
    }
    path = directory / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def perdure(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "perdure.pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def said_in(errors: str) -> list[str]:
    """Lines on stderr, but for what depends on the machine."""
    return [line for line in errors.strip().splitlines() if not line.startswith("oversubscribed: ")]


def outcome(out: Path) -> dict:
    """What must not depend on interruptions: weights, losses, and every byte of the data stage."""
    versions = {path.parent.name: read_json(path) for path in sorted(out.glob("versions/*/version.json"))}
    files = sorted(
        [*out.glob("data/*/*.*"), *out.glob("data/*/scores/*/*.*"), *out.glob("tokenizer*/tokenizer.json")]
    )
    return {
        "weights": {name: version["weights_hash"] for name, version in versions.items()},
        "evaluation": [read_json(path) for path in sorted(out.glob("versions/*/eval*.json"))],
        "data": {
            str(path.relative_to(out)): hash_file(path)
            for path in files
            if path.name not in ("manifest.json", VERIFIED)
        },
    }


def timeless(out: Path) -> str:
    """The report without what must differ: where it stands, and how long it took."""
    report = json.loads((out / "report.json").read_text().replace(str(out), "OUT"))
    for part in (*report["versions"], *report["curves"].values()):
        for key in ("seconds", "tokens_per_second", "mfu", "device_hours", "lost_hours"):
            part.pop(key, None)
    del report["cost"], report["checksum"]
    return json.dumps(report)
