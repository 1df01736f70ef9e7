"""Measures what versions know of documents that they, or what they come from, were to forget; see `evaluate/forgetting.py`."""

from pathlib import Path

import numpy as np
from pyarrow import parquet

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import MeasuredOn
from perdure.pipeline.evaluate.forgetting import Forgotten, forgotten
from perdure.pipeline.evaluate.record import evaluation, evaluation_directory, measured_on
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.order import perplexities
from perdure.pipeline.plan.withdrawn import forgotten_sources
from perdure.pipeline.recipe import Forget, Recipe
from perdure.pipeline.recipe.remembered import parent_of
from perdure.pipeline.run.scoring import score_by_model


def measure_forgetting(recipe: Recipe, data: dict[str, Path]) -> None:
    """Writes `<out>/forgotten.json`: by forgotten source its `exact` reference, its training `documents`, and `versions`.

    Of every finished version that forgets or starts from one that does, of the parents of those that forget, and of the exact
    reference, it has what `Forgotten` says. Documents are scored once by each model, as for a selection; scores are kept.
    """
    on, found = measured_on(recipe, data), {}
    objectives = {name: version.objective for name, version in recipe.versions.items()}
    forgetful = {
        name: source_of(each.source) for name, each in objectives.items() if isinstance(each, Forget)
    }
    for source in dict.fromkeys(forgetful.values()):
        exact = recipe.evaluation.exact.get(source)
        parents = {parent_of(recipe.versions[name]) for name, own in forgetful.items() if own == source}
        names = [
            name
            for name in recipe.versions
            if (name == exact or name in parents or source in forgotten_sources(recipe, name))
            and is_finished(recipe.paths.version(name).directory)
        ]
        trained = {name: _trained(recipe, name, data[source]) for name in names}
        heldout = {name: _heldout(recipe.paths.version(name), source, on) for name in names}
        against = (trained[exact], heldout[exact]) if exact in trained and exact is not None else None
        versions: dict[str, Forgotten] = {
            name: forgotten(trained[name], heldout[name], _retained(recipe, name, source, on), against)
            for name in names
        }
        if versions:
            documents = len(next(iter(trained.values())))
            found[source] = {"exact": exact, "documents": documents, "versions": versions}
    if found:
        write_json(recipe.paths.forgotten, found)


def _trained(recipe: Recipe, name: str, data: Path) -> np.ndarray:
    """A version's mean losses of a source's training documents, float64 [documents], nats per token."""
    found = np.concatenate([np.log(part) for part in perplexities(score_by_model(recipe, name, data, None))])
    return found[np.isfinite(found)]


def _heldout(version: VersionPaths, source: str, on: MeasuredOn) -> np.ndarray | None:
    """The same of its held-out documents, as its evaluation recorded them."""
    path = VersionPaths(evaluation_directory(version.directory, on)).documents
    if not path.exists():
        return None
    table = parquet.read_table(path, columns=["domain", "loss", "tokens"], filters=[("domain", "==", source)])
    return table["loss"].to_numpy() / table["tokens"].to_numpy() if len(table) else None


def _retained(recipe: Recipe, name: str, source: str, on: MeasuredOn) -> list[float]:
    """A version's held-out losses of the other domains."""
    found = evaluation(recipe.paths.version(name).directory, on)
    domains = found["domains"].items() if found else ()
    return [
        text["loss"] for domain, text in domains if source_of(domain) != source and text["loss"] is not None
    ]
