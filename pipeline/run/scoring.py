"""The scores that a version needs of each of its sources, by which model.

Perplexities decide which documents a plan has, so that all of a source is scored before there is one. A selection goes by the
scores of what is read: once there is a plan, the documents are scored that it reads and that no version before it did.
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.data.score.score import ReferenceModel, score_place, score_source
from perdure.pipeline.model.exports import export_of
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import members
from perdure.pipeline.plan.plan import Plan
from perdure.pipeline.plan.reads import documents_read, is_judged
from perdure.pipeline.recipe import Mixture, Recipe, Version

if TYPE_CHECKING:
    from perdure.pipeline.data.score.score import ReferenceModel

logger = logging.getLogger(__name__)


def perplexity_scores(recipe: Recipe, mixture: Mixture, data: dict[str, Path]) -> dict[str, Path]:
    """Scores of all documents of each source that a mixture orders or chooses by perplexity, made if they are missing."""
    judged = {source_of(domain) for domain, member in members(mixture).values() if is_judged(member)}
    if not judged:
        return {}
    assert mixture.perplexity_model is not None
    return {
        source: score_by_model(recipe, mixture.perplexity_model, data[source], None)
        for source in sorted(judged)
    }


def selection_places(
    recipe: Recipe, version: Version, sources: list[str], data: dict[str, Path]
) -> dict[str, Path]:
    """Directories of the scores that training reads, by source, finished or not; empty if it reads none (see
    `score.score_place`)."""
    if version.scored_by is None:
        return {}
    model = _reference(recipe, version.scored_by)
    without = {source_of(domain) for domain in version.unscored}
    return {source: score_place(data[source], model)[0] for source in sources if source not in without}


def score_what_is_read(
    recipe: Recipe, name: str, plan: Plan, sources: list[str], data: dict[str, Path]
) -> dict[str, Path]:
    """Scores the documents that a version's plan reads, unless they are scored; returns the directory of scores by source."""
    version, found = recipe.versions[name], {}
    for source in sources:
        assert version.scored_by is not None
        number = read_json(data[source] / "manifest.json")["counts"]["train"]["documents"]
        moving = version.mixture.reweight is not None
        directory = recipe.paths.version(name).plan
        wanted = documents_read(plan, directory, source, number, moving)
        found[source] = score_by_model(recipe, version.scored_by, data[source], wanted)
    return found


def score_by_model(
    recipe: Recipe, model: str, data: Path, wanted: np.ndarray | None, split: str = "train"
) -> Path:
    """Scores of documents of a source by a model, named as in the recipe; see `score.score_source`."""
    from perdure.pipeline.data.backends import remote_executor

    reference = _reference(recipe, model)
    begun = time.monotonic()
    found = score_source(
        data,
        reference,
        wanted=wanted,
        workers=recipe.data.workers,
        executor=remote_executor(recipe, scoring=True),
        split=split,
    )
    if (seconds := time.monotonic() - begun) > 1:
        source = read_json(data / "manifest.json")["source"]
        logger.info(f"scored {source} with {reference.label} in {seconds:.0f} s")
    return found


def _reference(recipe: Recipe, model: str) -> "ReferenceModel":
    """A model that a recipe names, and how it scores."""
    directory = Path(model) if "/" in model else finished_export(recipe, model)
    context, overlap = recipe.scoring.windows(recipe.training.seq_length)
    label = directory.resolve().name if "/" in model else model
    hashes = recipe.paths.model_hashes
    return ReferenceModel(directory, label, context, overlap, recipe.training.precision, hashes)


def finished_export(recipe: Recipe, version: str) -> Path:
    """The export directory of a finished version.

    Raises:
        PerdureError: If it is not finished, or damaged.
    """
    directory = recipe.paths.version(version).directory
    if not is_finished(directory):
        raise PerdureError(
            f"version {version} is needed, but not finished; run it first (`perdure run` does all in order)"
        )
    return export_of(directory)
