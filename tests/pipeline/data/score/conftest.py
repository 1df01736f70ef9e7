"""A small model and a source to score."""

import pytest
from tiny import tiny_llama

from perdure.pipeline.data.score.losses import (
    load_model,
)
from perdure.pipeline.data.stage import run_data
from tests.pipeline.data.score.small import VOCAB


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model with random weights, large enough that losses differ between tokens, and its directory."""
    directory = tiny_llama(tmp_path_factory.mktemp("model"), VOCAB, initializer_range=0.5)
    return load_model(directory, "fp32", "cpu"), directory


@pytest.fixture
def news(make_recipe, texts):
    """A source's shards."""
    return run_data(make_recipe({"news": texts}))["news"]
