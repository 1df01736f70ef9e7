"""A model directory for the checks."""

from pathlib import Path

import pytest

from tests.pipeline.checks.models import write_model


@pytest.fixture
def llama(tmp_path) -> Path:
    """A small Hugging Face model: config, and weights that are 0."""
    directory = tmp_path / "llama"
    directory.mkdir()
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 5000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }
    write_model(directory, config)
    return directory
