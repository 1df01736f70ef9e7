"""A small Hugging Face model directory without a trained weight."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.model.shape import config_shape, config_vocab_size, tensor_sizes


def write_model(directory: Path, config: dict) -> None:
    """A config, and a tensor of zeros for whatever it asks for; no weights if it asks for nothing sensible."""
    (directory / "config.json").write_text(json.dumps(config))
    with suppress(PerdureError):
        sizes = tensor_sizes(config_shape(directory), config_vocab_size(directory))
        zeros = {name: np.zeros(size, np.float16) for name, size in sizes.items()}
        save_file(zeros, directory / "model.safetensors")
