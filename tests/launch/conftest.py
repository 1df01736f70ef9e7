"""A recipe to launch."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    """A recipe that `check` accepts."""
    (tmp_path / "prose.jsonl").write_text(json.dumps({"text": "to go on existing " * 2000}) + "\n")
    tree = {
        "name": "small",
        "sources": {"prose": {"reader": {"type": "jsonl", "path": str(tmp_path / "prose.jsonl")}}},
        "tokenizer": {"type": "train", "vocab_size": 300, "sources": ["prose"]},
        "model": {
            "type": "llama",
            **{"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64},
            **{"num_attention_heads": 4, "num_query_groups": 2},
        },
        "training": {"seq_length": 64, "global_batch_size": 8},
        "versions": {
            "base": {
                "start": {"type": "init"},
                "tokens": 4096,
                "mixture": {"sources": {"prose": {}}},
                "schedule": {"type": "cosine", "max_lr": 0.01, "min_lr": 0.001},
            }
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path
