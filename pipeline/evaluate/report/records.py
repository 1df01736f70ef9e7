"""The records of a run that its report is made from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.integrity import metrics_lines, require_whole
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import MeasuredOn, VersionRecord, read_record
from perdure.pipeline.evaluate.record import evaluation_directory, initial_evaluation, measured_on
from perdure.pipeline.evaluate.report.training import training_curve
from perdure.pipeline.plan.domains import measured_domains, source_of
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.plan.recorded import as_recorded, recorded
from perdure.pipeline.recipe import Recipe

RECORDED_SECTIONS = (
    "seed",
    "model",
    "training",
    "tokenizer",
    "scoring",
    "data",
    "parallel",
    "kernels",
    "logging",
    "cluster",
)
"""Sections of a recipe that hold for all versions and choose nothing of what a report shows."""


@dataclass(frozen=True)
class RunRecords:
    """The records of a run's directory.

    Attributes:
        recipe: The recipe with every version as it was made, see `perdure.pipeline.plan.recorded.as_recorded`.
        recipes: By version the recipe that it was made by.
        domains: The domains that are measured.
        on: What identifies their text and the probes, see `evaluate/record.py`.
        records: By version its `version.json`; None if it is not finished.
        places: By version the directory of its evaluation.
        initial: The initial model's evaluation; None if it was not measured.
        evaluations: By version its evaluation; None if it was not measured.
        manifests: By source the manifest of its data; None before there is any.
        steps: By version its lines of `metrics.jsonl`, by step.
        curves: By version its training curves; None before its first step.
    """

    recipe: Recipe
    recipes: dict[str, Recipe]
    domains: list[str]
    on: MeasuredOn
    records: dict[str, VersionRecord | None]
    places: dict[str, Path]
    initial: dict[str, Any] | None
    evaluations: dict[str, dict[str, Any] | None]
    manifests: dict[str, dict[str, Any] | None]
    steps: dict[str, dict[int, dict[str, Any]]]
    curves: dict[str, dict[str, Any] | None]

    @property
    def rows(self) -> list[dict[str, Any] | None]:
        """The evaluations in the order of the loss matrix: the initial model's, then each version's."""
        return [self.initial, *self.evaluations.values()]

    @property
    def begun(self) -> dict[str, Recipe]:
        """By version that has begun, the recipe that it was made by."""
        paths = self.recipe.paths
        return {name: made for name, made in self.recipes.items() if paths.version(name).inputs.exists()}

    def recipe_as_made(self) -> Recipe:
        """The recipe with all that decides versions as recorded.

        Of sections that hold for all versions, it is what the last one that has begun recorded; of a source, what the last one
        recorded that reads it. What chooses the versions and the text of a report, and its title, is as asked for today.
        """
        if not self.begun:
            return self.recipe
        last = list(self.begun.values())[-1]
        sources = dict(self.recipe.sources)
        for name, made in self.begun.items():
            for domain, _ in members(made.versions[name].mixture).values():
                if (source := source_of(domain)) in made.sources:
                    sources[source] = made.sources[source]
        sections = {section: getattr(last, section) for section in RECORDED_SECTIONS}
        return self.recipe.model_copy(update=sections | {"sources": sources})

    def optional(self, version: str, file: str) -> Any:
        """What a JSON file of a version holds; None if it is not there."""
        return read_optional(self.recipe.paths.version(version).directory / file)


def read_records(today: Recipe, data: dict[str, Path | None]) -> RunRecords:
    """Reads the records that a report needs.

    Args:
        today: The recipe as it is now.
        data: By source its finished data directory, or None.

    Raises:
        PerdureError: If an artefact is broken.
    """
    recipe = as_recorded(today)
    versions = {name: recipe.paths.version(name) for name in recipe.versions}
    on = measured_on(recipe, data)
    places = {name: evaluation_directory(version.directory, on) for name, version in versions.items()}
    for place in {*places.values(), *(version.directory for version in versions.values())}:
        if is_finished(place):
            require_whole(place)
    start = initial_evaluation(places.values(), on)
    steps = {
        name: {entry["step"]: entry for entry in metrics_lines(version.metrics)}
        for name, version in versions.items()
    }
    return RunRecords(
        recipe=recipe,
        recipes=recorded(today),
        domains=measured_domains(recipe),
        on=on,
        records={
            name: read_record(version) if version.record.exists() else None
            for name, version in versions.items()
        },
        places=places,
        initial=read_json(start) if start else None,
        evaluations={name: read_optional(VersionPaths(place).evaluation) for name, place in places.items()},
        manifests={
            source: read_json(path / "manifest.json") if path else None for source, path in data.items()
        },
        steps=steps,
        curves={name: training_curve(lines) for name, lines in steps.items()},
    )


def read_optional(path: Path) -> Any:
    """What a JSON file holds; None if it is not there."""
    return read_json(path) if path.exists() else None
