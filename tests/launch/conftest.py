"""A recipe to launch, and stand-ins for Slurm's commands."""

import json
import os
from pathlib import Path

import pytest

SBATCH = """#!/bin/bash
echo "$*" >> {folder}/submitted
wc -l < {folder}/submitted
"""


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


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """`sbatch` numbers jobs from 1; the queue holds what it is told, and is absent when told None."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(SBATCH.format(folder=tmp_path))
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")

    def holds(states: dict[str, str] | None, reason: str = "x", waits: dict[str, str] | None = None) -> None:
        rows = (
            "exit 1"
            if states is None
            else "".join(f"echo '{job}|{states[job]}|{reason}'\n" for job in states)
        )
        waiting = "".join(f"echo '{job}|{waited}'\n" for job, waited in (waits or {}).items())
        asked = f"case $* in *%E*)\n{waiting}exit;; esac\n"
        (tools / "squeue").write_text(f"#!/bin/sh\n{asked}{rows}\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)

    holds({})
    return holds
