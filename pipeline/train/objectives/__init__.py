"""Objectives, one file each; `objective.py` says what the trainer asks of one."""

from perdure.pipeline.recipe import Version
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.objectives.objective import Objective


def objective_of(version: Version) -> Objective:
    """The objective that a version's section of the recipe asks for."""
    return LanguageModeling(version.selection)
