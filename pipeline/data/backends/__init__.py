"""Where the data stage's tasks run: this machine, Slurm arrays or a Ray cluster."""

from contextlib import AbstractContextManager

from perdure.pipeline.data.backends.local import Execute
from perdure.pipeline.recipe import RayTasks, Recipe, SlurmArrays


def remote_executor(recipe: Recipe, scoring: bool) -> AbstractContextManager[Execute] | None:
    """The executor of a recipe's tasks on Slurm or Ray; None for this machine.

    Args:
        recipe: The recipe.
        scoring: Whether the tasks score documents, which takes GPUs.
    """
    match recipe.data.executor:
        case SlurmArrays():
            from perdure.pipeline.data.backends.slurm import arrays  # datatrove's executor for Slurm

            return arrays(recipe, scoring)
        case RayTasks() as ray:
            from perdure.pipeline.data.backends.ray import cluster

            return cluster(ray, recipe.data.workers, recipe.cluster.values, scoring)
        case _:
            return None
