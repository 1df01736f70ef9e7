"""Recipes as files, and what is refused of them."""

from pathlib import Path

import pytest
import yaml

from perdure.pipeline.core.errors import Problem, RecipeError
from perdure.pipeline.recipe import load_recipe


def write(path: Path, tree: dict) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def refused(path: Path, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    assert error.value.exit_status == 2
    assert all(str(problem) in str(error.value) for problem in error.value.problems)
    return error.value.problems
