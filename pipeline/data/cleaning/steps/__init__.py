"""Cleaning steps: `<type>.py` carries out the step that recipes call so.

Each module has `block(step, folder) -> Block`: `step` is the section of the recipe (`recipe/cleaning.py`), `folder` a
directory of its own for signatures and the like. A new step is its section there and its module here.
"""

import importlib
from pathlib import Path

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.recipe import CleaningStep


def block(step: CleaningStep, folder: Path) -> Block:
    """The datatrove block of a cleaning step.

    Args:
        step: The step as the recipe has it.
        folder: A directory for what the step keeps; it need not exist yet.
    """
    found: Block = importlib.import_module(f"{__name__}.{step.type}").block(step, folder)
    return found
