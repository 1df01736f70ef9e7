"""Measures what versions know of documents that they, or what they come from, were to forget; see `evaluate/forgetting.py`."""

import logging
from pathlib import Path

import numpy as np
from pyarrow import parquet

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import MeasuredOn, read_record
from perdure.pipeline.core.shards import REF_MISSING, REF_NATS_PER_UNIT, are_labels, open_shard
from perdure.pipeline.evaluate.forgetting import Forgotten, forgotten
from perdure.pipeline.evaluate.record import evaluation, measured_on
from perdure.pipeline.evaluate.report.lineage_paths import learned_sources, paths
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.planning import data_hash
from perdure.pipeline.plan.withdrawn import forgotten_sources
from perdure.pipeline.recipe import Forget, Recipe
from perdure.pipeline.recipe.remembered import parent_of
from perdure.pipeline.run.scoring import score_by_model

logger = logging.getLogger(__name__)

MASKS = {"train": "{:05d}.mask", "heldout": "heldout.{:05d}.mask"}
"""File name of a shard's label mask, by split."""


def measure_forgetting(recipe: Recipe, data: dict[str, Path]) -> None:
    """Writes `<out>/forgotten.json`, by forgotten source, or removes it where nothing is measured.

    Of a source it has its `exact` reference, how many training `documents` it has, the hash of its `data`, `versions`, and
    the `weights` that each of them had. Of every finished version that forgets or starts from one that does, of the parents
    of those that forget, and of the exact reference, `versions` has what `Forgotten` says. All documents are scored alone,
    those that are held out as those that train, once by each model; scores are kept.
    """
    on, found = measured_on(recipe, data), {}
    objectives = {name: version.objective for name, version in recipe.versions.items()}
    forgetful = {
        name: source_of(each.source) for name, each in objectives.items() if isinstance(each, Forget)
    }
    sources = list(recipe.sources)
    along = paths(sources, dict.fromkeys(recipe.versions, recipe))
    for source in dict.fromkeys(forgetful.values()):
        exact = recipe.evaluation.exact.get(source)
        parents = {parent_of(recipe.versions[name]) for name, own in forgetful.items() if own == source}
        names = [
            name
            for name in recipe.versions
            if (name == exact or name in parents or source in forgotten_sources(recipe, name))
            and is_finished(recipe.paths.version(name).directory)
        ]
        unlike = _unlike(recipe, source)
        if names and unlike:
            logger.warning(f"{source}: no AUC and no PrivLeak, since {unlike}")
        trained = {name: document_losses(recipe, name, data[source], "train") for name in names}
        heldout = {
            name: None if unlike else document_losses(recipe, name, data[source], "heldout") for name in names
        }
        against = (trained[exact], heldout[exact]) if exact in trained and exact is not None else None
        retained = {
            name: _retained(
                recipe.paths.version(name),
                [each for each in learned_sources(sources, along[name]) if each not in forgetful.values()],
                on,
            )
            for name in names
        }
        versions: dict[str, Forgotten] = {
            name: forgotten(trained[name], heldout[name], retained[name], against) for name in names
        }
        if versions:
            found[source] = {
                "exact": exact,
                "documents": len(next(iter(trained.values()))),
                "data": data_hash(data[source]),
                "weights": {name: read_record(recipe.paths.version(name))["weights_hash"] for name in names},
                "versions": versions,
            }
    if found:
        write_json(recipe.paths.forgotten, found)
    else:
        recipe.paths.forgotten.unlink(missing_ok=True)


def _unlike(recipe: Recipe, source: str) -> str | None:
    """Why a source's held-out documents are of another kind than those that train; None if they are not."""
    section = recipe.sources[source]
    if section.infilled:
        return "its training documents are to be filled in the middle, and its held-out ones are not"
    if section.repository is not None:
        return (
            "its training documents are whole repositories, and its held-out ones the few files left of them"
        )
    return None


def document_losses(recipe: Recipe, name: str, data: Path, split: str) -> np.ndarray:
    """A version's mean losses of a source's documents, each scored alone: of their labels, in nats per token.

    Returns:
        float64 [documents]; inf where the model gives no finite loss. A document without labels is left out.
    """
    scores = score_by_model(recipe, name, data, None, split)
    if read_json(data / "manifest.json").get("label_mask"):
        found = _label_means(scores, data, split)
    else:
        table = parquet.read_table(scores / "docs.parquet", columns=["mean_nll"])
        found = table["mean_nll"].to_numpy().astype(np.float64)
    lost = ~np.isfinite(found)
    if lost.any():
        logger.warning(
            f"{name} gives no finite loss to {lost.sum():,} of {len(found):,} documents of {data.name.partition('@')[0]}; "
            "they count as infinitely unlikely"
        )
    return np.where(lost, np.inf, found)


def _label_means(scores: Path, data: Path, split: str) -> np.ndarray:
    """Mean losses of the labels of documents, float64 [documents that have some]; NaN if none is known."""
    found = list[float]()
    for task in range(read_json(data / "manifest.json")["tasks"]):
        losses, masks = open_shard(scores / f"{task:05d}.ref"), open_shard(data / MASKS[split].format(task))
        for document in range(len(masks.lengths)):
            begin, start, length = losses.start(document), masks.start(document), int(masks.lengths[document])
            units = np.asarray(losses.values[begin : begin + length])
            labels = are_labels(np.asarray(masks.values[start : start + length]))
            known = units[labels & (units != REF_MISSING)]
            if labels.any():
                found.append(known.mean() * REF_NATS_PER_UNIT if len(known) else np.nan)
    return np.array(found, np.float64)


def _retained(version: VersionPaths, sources: list[str], on: MeasuredOn) -> list[float]:
    """A version's held-out losses of some sources, so far as they were measured."""
    measured = evaluation(version.directory, on)
    found = (measured["domains"].get(source) for source in sources) if measured else ()
    return [text["loss"] for text in found if text is not None and text["loss"] is not None]
