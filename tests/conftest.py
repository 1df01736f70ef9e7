"""Shared settings of the tests: few threads, no network, fast tests first."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Triton reads this as it is imported, which torch and Megatron may do.
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("perdure", max_examples=50, deadline=None, derandomize=True)
settings.load_profile("perdure")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, so that a mistake shows early."""
    items.sort(key=lambda item: "slow" in item.keywords)
