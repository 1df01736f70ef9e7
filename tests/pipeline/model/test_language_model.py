"""What a model refuses to be built with."""

import pytest
import torch
from tiny import tiny_recipe

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.model.language_model import build_model


def test_kernels_that_cannot_run_here_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    recipe = tiny_recipe(tmp_path, training__loss_implementation="triton")
    with pytest.raises(PerdureError, match=r"training\.loss_implementation: triton needs a GPU") as refused:
        build_model(recipe, 300, torch.device("cpu"))
    assert len(str(refused.value).splitlines()) == 1
