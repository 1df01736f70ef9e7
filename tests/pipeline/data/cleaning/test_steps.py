"""A cleaning step is a section of the recipe and a module of its type's name."""

from typing import get_args

import pytest

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.steps import block
from perdure.pipeline.recipe import CleaningStep

NEEDED = {"decontaminate": {"files": ["unused.txt"]}}
"""Fields without defaults."""
STEPS = get_args(get_args(CleaningStep)[0])


@pytest.mark.parametrize("section", STEPS, ids=lambda section: section.__name__)
def test_every_step_of_recipes_has_its_block(section, tmp_path):
    (kind,) = get_args(section.model_fields["type"].annotation)
    found = block(section.model_validate({"type": kind} | NEEDED.get(kind, {})), tmp_path)
    assert isinstance(found, Block) and found.reason and (found.sign is None) == (found.signed is None)
