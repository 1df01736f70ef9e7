"""A valid recipe."""

import pytest
from tiny import tiny_recipe


@pytest.fixture
def tree(tmp_path) -> dict:
    """A valid recipe as it would stand in YAML."""
    return tiny_recipe(tmp_path / "out").model_dump(mode="json")
