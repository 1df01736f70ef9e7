"""A recipe as a chain of jobs: what runs, and what has to be whole before it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.evaluate.record import measured_on, run_data_directories, unmeasured
from perdure.pipeline.plan.lineage import models_needed
from perdure.pipeline.recipe import Recipe, SlurmArrays
from perdure.pipeline.run.version_inputs import refuse_edited


@dataclass(frozen=True)
class Job:
    """One job of the chain.

    Attributes:
        name: `data`, `prepare-<version>`, `train-<version>` or `report`.
        command: What follows `perdure` on one node; empty for a job of ranks.
        version: The version whose ranks it runs, or that it prepares.
        after: Names of the jobs that must have ended well before it.
        behind: Names of the jobs that must have ended before it, well or not: they may work on the same files.
        gpus: Whether it uses GPUs: ranks do, models that score documents, unless those are arrays of their own, finished
            versions that are measured again, and other tools' tasks.
        anyhow: Whether it runs after jobs that failed, too: it tells what is there.
        coordinates: Whether it hands its tasks to Slurm arrays, and waits for them.
    """

    name: str
    command: tuple[str, ...] = ()
    version: str | None = None
    after: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    gpus: bool = False
    anyhow: bool = False
    coordinates: bool = False

    @property
    def ranks(self) -> bool:
        """Whether it runs the trainer's ranks."""
        return not self.command


def jobs(
    recipe: Recipe, recipe_file: Path, ranks: int | None = None, live: Collection[str] = ()
) -> list[Job]:
    """The jobs that a recipe still needs, in an order in which each stands after those that it waits for.

    Versions that do not need one another train at the same time. Jobs that prepare versions run one after another,
    because they may score the same source.

    Args:
        recipe: The recipe.
        recipe_file: The file that jobs read it from.
        ranks: How many of the trainer's ranks one node holds; default: as many as the recipe has.
        live: Names of its jobs that stand in the queue from an earlier launch. They are in the chain; what they have
            waited for, and what has ended since, is not.

    Raises:
        PerdureError: If a version that exists was made from something else.
    """
    refuse_edited(recipe, recipe.versions)
    file = str(recipe_file)
    arrays = isinstance(recipe.data.executor, SlurmArrays)
    chain = [Job("data", ("data", file), coordinates=arrays)] if "data" in live or not live else []
    versions = [name for name in recipe.versions if not is_finished(recipe.paths.version(name).directory)]
    last = [job.name for job in chain]
    for name in versions:
        if f"train-{name}" in live and f"prepare-{name}" not in live:
            chain.append(Job(f"train-{name}", version=name, gpus=True))
            continue
        version = recipe.versions[name]
        needed = [f"train-{other}" for other in models_needed(version) if other in versions]
        prepare = Job(
            f"prepare-{name}",
            ("prepare", file, "--version", name),
            name,
            tuple(dict.fromkeys([*last, *needed])),
            gpus=version.needs_scores and not arrays,
            coordinates=arrays,
        )
        chain += [prepare, Job(f"train-{name}", version=name, after=(prepare.name,), gpus=True)]
        last = [prepare.name]
    trained = tuple(job.name for job in chain if job.ranks)
    # `eval` skips what is measured, looks for leaks where the data stage runs, and ends with the report. Finished versions are
    # measured again by ranks.
    command = ("eval", file) if ranks is None else ("eval", file, "--ranks", str(ranks))
    gpus = recipe.evaluation.harness is not None or _measures_again(recipe)
    return [*chain, Job("report", command, after=trained or tuple(last), gpus=gpus, coordinates=arrays)]


def _measures_again(recipe: Recipe) -> bool:
    """Whether a finished version has not been measured on what the recipe says now."""
    if not any(is_finished(recipe.paths.version(name).directory) for name in recipe.versions):
        return False  # without looking for data
    return bool(unmeasured(recipe, measured_on(recipe, run_data_directories(recipe))))
