"""Shared settings of the tests: few threads, no network, fast tests first."""

import os
import signal
from collections.abc import Iterator

# A job in the background ignores Ctrl-C, and so would all that tests start, and send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings
from messages import messages

from perdure.pipeline.data.backends import local

if not torch.cuda.is_available():
    # Triton reads this as it is imported, which torch and Megatron may do.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Workers of the data stage are forks of a server that a session starts once: it imports what any of its tests may need.
local.PRELOAD += [*local.PRELOAD_SCORING, "sklearn.feature_extraction.text", "sklearn.linear_model"]

settings.register_profile("perdure", max_examples=50, deadline=None, derandomize=True)
settings.register_profile("explore", max_examples=300, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "perdure"))


LONGEST = ("test_cluster", "test_run", "test_checkpoint", "test_writers", "test_restart", "test_versions")
"""Files that would keep one of two workers busy when the other has nothing left to do, if they came last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, so that a mistake shows early; then long files. With several workers a file stays on one."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        slow, file = "slow" in item.keywords, item.path.stem
        return slow, LONGEST.index(file) if slow and file in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Every message of Perdure's loggers during the test, details (DEBUG) left out."""
    with messages() as found:
        yield found
