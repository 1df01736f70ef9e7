"""Objectives, one file each; `objective.py` says what the trainer asks of one."""

from perdure.pipeline.recipe import Forget, KLAnchor, Preference, Version
from perdure.pipeline.train.objectives.forget import Forgetting
from perdure.pipeline.train.objectives.kl import AnchoredLanguageModeling
from perdure.pipeline.train.objectives.lm import LanguageModeling
from perdure.pipeline.train.objectives.objective import Objective
from perdure.pipeline.train.objectives.preference import PreferenceOptimization
from perdure.pipeline.train.objectives.teacher import Teacher


def objective_of(version: Version, teacher: Teacher | None = None, keys: tuple[str, ...] = ()) -> Objective:
    """The objective that a version's section of the recipe asks for.

    Args:
        version: The section.
        teacher: The frozen model of a `kl` anchor; None if there is none, or no step is to be trained.
        keys: Names of the mixture's places, as the plan numbers them.
    """
    if isinstance(version.objective, Forget):
        return Forgetting(section=version.objective, number=keys.index(version.objective.source))
    if isinstance(version.objective, Preference):
        return PreferenceOptimization(settings=version.objective, keys=keys)
    if teacher is None:
        return LanguageModeling(version.selection)
    assert isinstance(version.anchor, KLAnchor)
    return AnchoredLanguageModeling(version.selection, anchor=version.anchor, teacher=teacher)
