"""The cut-off of a version: the date of the newest text on its lineage.

All parents of a merged or averaged version count, and of a branch what its parent read before it left. Text without a date may
be of any, so that it makes a cut-off unknown; so does a model that nobody has declared one of.
"""

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np

from perdure.pipeline.core.records import Cutoff, VersionRecord, read_record
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.history import history
from perdure.pipeline.plan.order import shard_lengths
from perdure.pipeline.plan.plan import Plan
from perdure.pipeline.plan.reads import documents_read
from perdure.pipeline.recipe import Branch, HuggingFaceModel, Init, KLAnchor, Recipe
from perdure.pipeline.recipe.periods import Period, period
from perdure.pipeline.recipe.remembered import parents_of

NO_TEXT: Cutoff = {"earliest": None, "latest": None, "unknown": []}
"""The cut-off of random weights."""


def cutoff_of(recipe: Recipe, record: VersionRecord) -> Cutoff | None:
    """The cut-off of a finished version, with the one that is declared of its first model today; None if none was recorded.

    Args:
        recipe: Today's, as `recorded.as_recorded` gives it.
        record: The version's.
    """
    own = record.get("cutoff")
    return None if own is None else newest([initial_cutoff(recipe), own])


def are_dated(recipe: Recipe) -> bool:
    """Whether a recipe says anything of dates, so that versions have cut-offs."""
    dated = any(source.date_field for source in recipe.sources.values())
    return dated or recipe.evaluation.model_cutoff is not None


def initial_cutoff(recipe: Recipe) -> Cutoff:
    """The cut-off of the model that versions start from: as declared; random weights have seen no text."""
    if not isinstance(recipe.model, HuggingFaceModel):
        return NO_TEXT
    if (declared := period(recipe.evaluation.model_cutoff)) is None:
        return _unknown(f"of {recipe.model.path} none is declared (evaluation.model_cutoff)")
    return _known(declared)


def cutoff_before(recipe: Recipe, name: str, data: dict[str, Path]) -> Cutoff:
    """The cut-off of the text that a version starts from, and of the teacher that its predictions are held near.

    That of the first model is no part of it: what is declared may change, and is added where it is read (`cutoff_of`).

    Args:
        recipe: The recipe.
        name: The version; its parents are finished, but for that of a branch.
        data: Data directory per source.
    """
    version = recipe.versions[name]
    if isinstance(version.start, Branch):
        directory = recipe.paths.version(version.start.parent).plan
        plan, end = history(recipe, name)[0]
        found = [
            cutoff_before(recipe, version.start.parent, data),
            cutoff_of_plan(plan, directory, data, end),
        ]
    elif isinstance(version.start, Init):
        found = [NO_TEXT]
    else:
        found = [_recorded(recipe, parent) for parent in parents_of(version)]
    teacher = version.anchor.model if isinstance(version.anchor, KLAnchor) else None
    return newest(found + ([_recorded(recipe, teacher)] if teacher else []))


def cutoff_of_plan(plan: Plan, directory: Path, data: dict[str, Path], end: int) -> Cutoff:
    """The newest document that the samples of a plan's version before a global index read.

    What is replayed from parents counts with them.

    Args:
        plan: With the phases that training added.
        directory: Where it stands.
        data: Data directory per source.
        end: The index.
    """
    read = (source_of(entry["source"]) for entry in plan.sources.values() if entry["pool"] is None)
    return newest(
        _newest_document(plan, directory, source, data[source], end) for source in dict.fromkeys(read)
    )


def newest(cutoffs: Iterable[Cutoff]) -> Cutoff:
    """The latest of several; unknown if one of them is."""
    earliest, latest, unknown = list[str](), list[str](), list[str]()
    for cutoff in cutoffs:
        unknown += [reason for reason in cutoff["unknown"] if reason not in unknown]
        earliest += [cutoff["earliest"]] if cutoff["earliest"] else []
        latest += [cutoff["latest"]] if cutoff["latest"] else []
    if unknown or not latest:
        return {"earliest": None, "latest": None, "unknown": unknown}
    return {"earliest": max(earliest), "latest": max(latest), "unknown": []}


def days_of(cutoff: Cutoff) -> Period | None:
    """The days that a cut-off can be; None if it is unknown, or there is no text."""
    if cutoff["earliest"] is None or cutoff["latest"] is None:
        return None
    return Period(date.fromisoformat(cutoff["earliest"]), date.fromisoformat(cutoff["latest"]))


def cutoff_words(cutoff: Cutoff) -> str:
    """A cut-off as people read it: `2024-06`, `2024-06-01..2024-12-31`, or why there is none."""
    if cutoff["unknown"]:
        return f"unknown: {'; '.join(cutoff['unknown'])}"
    return str(days_of(cutoff) or "no text")


def _known(days: Period) -> Cutoff:
    return {"earliest": days.first.isoformat(), "latest": days.last.isoformat(), "unknown": []}


def _unknown(reason: str) -> Cutoff:
    return {"earliest": None, "latest": None, "unknown": [reason]}


def _recorded(recipe: Recipe, name: str) -> Cutoff:
    """The cut-off of a finished version, but for that of its first model."""
    recorded = read_record(recipe.paths.version(name)).get("cutoff")
    return recorded or _unknown(f"{name} was made before its documents had dates (sources.<name>.date_field)")


def _newest_document(plan: Plan, directory: Path, source: str, data: Path, end: int) -> Cutoff:
    from pyarrow import parquet

    table = parquet.ParquetFile(data / "docs.parquet")
    if "date" not in table.schema_arrow.names:
        return _unknown(f"{source} has no dates (sources.{source}.date_field)")
    number = sum(map(len, shard_lengths(data)))
    read = documents_read(plan, directory, source, number, until=end, for_cutoff=True)
    undated, dates, place = 0, set[str](), 0
    for batch in table.iter_batches(columns=["split", "date"]):
        train = batch["split"].to_numpy(zero_copy_only=False) == "train"
        own = batch["date"].filter(train).to_numpy(zero_copy_only=False)[read[place : place + train.sum()]]
        place += int(train.sum())
        missing = np.array([text is None for text in own], bool)
        undated += int(missing.sum())
        dates |= set(own[~missing])
    if undated:
        return _unknown(
            f"{undated:,} of the {int(read.sum()):,} documents of {source} that were read have no date"
        )
    return newest(_known(days) for text in dates if (days := period(text)) is not None)
