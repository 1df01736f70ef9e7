"""Texts, and recipes over them."""

from pathlib import Path

import pytest

from perdure.pipeline.recipe import Recipe
from tests.pipeline.data.texts import random_text, write_jsonl


@pytest.fixture
def texts() -> list[str]:
    """Enough documents, all different, that some fall into either split."""
    return [random_text(seed) for seed in range(60)]


@pytest.fixture
def make_recipe(tmp_path):
    """Builds a recipe over sources given as reader mappings or as lists of texts."""

    def make(
        sources: dict, out: Path | None = None, tasks: int = 2, tokenizer: dict | None = None, **options
    ) -> Recipe:
        readers = {}
        for name, reader in sources.items():
            if isinstance(reader, list):
                rows = [{"text": text, "id": str(number)} for number, text in enumerate(reader)]
                reader = {"type": "jsonl", "path": str(write_jsonl(tmp_path / "in" / f"{name}.jsonl", rows))}
            readers[name] = {"reader": reader, "heldout_fraction": 0.2} | options
        version = {
            "start": {"type": "init"},
            "tokens": 1000,
            "mixture": {"sources": {next(iter(readers)): {}}},
            "schedule": {"type": "cosine", "max_lr": 1e-3, "min_lr": 1e-4},
        }
        model = {"type": "llama", "num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 32}
        return Recipe.model_validate(
            {
                "name": "test",
                "out": str(out or tmp_path / "out"),
                "sources": readers,
                "data": {"tasks": tasks, "workers": 2},
                "tokenizer": tokenizer or {"type": "train", "vocab_size": 400, "sources": list(readers)},
                "model": model | {"num_attention_heads": 2, "num_query_groups": 1},
                "training": {"seq_length": 16, "global_batch_size": 2},
                "versions": {"base": version},
            }
        )

    return make
