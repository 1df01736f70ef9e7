"""A small model and a source to score."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from perdure.pipeline.data.score.losses import (
    load_model,
)
from perdure.pipeline.data.stage import run_data
from tests.pipeline.data.score.small import SMALL, VOCAB


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model with random weights, large enough that losses differ between tokens, and its directory."""
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, initializer_range=0.5, **SMALL)).save_pretrained(directory)
    return load_model(directory, "fp32", "cpu"), directory


@pytest.fixture
def news(make_recipe, texts):
    """A source's shards."""
    return run_data(make_recipe({"news": texts}))["news"]
