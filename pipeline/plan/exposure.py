"""Which samples of a plan hold a document, and so which versions read it, and when: found without reading samples."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perdure.pipeline.core.manifest import is_finished
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.plan.consumption import samples_consumed
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.history import appended_phases, steps_done
from perdure.pipeline.plan.lineage import ancestors
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.permutation import epoch_key, inverse
from perdure.pipeline.plan.plan import Plan, open_order, open_plan
from perdure.pipeline.plan.withdrawn import CHUNK, documents_with, is_forgotten, is_one_of
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.recipe.remembered import parents_of


@dataclass(frozen=True)
class Reads:
    """How one place in a version's mixture read some documents.

    Attributes:
        source: The domain.
        replayed: Whether it is replay.
        forgotten: Whether it was read to be forgotten.
        samples: Samples that held anything of them, repetitions included.
        first_step: The step of the first one, 1 for the version's first step.
        last_step: Of the last one.
    """

    source: str
    replayed: bool
    forgotten: bool
    samples: int
    first_step: int
    last_step: int


def samples_with(plan: Plan, directory: Path, key: str, numbers: np.ndarray, end: int) -> np.ndarray:
    """Global indices of the version's samples whose labels come from one of some documents, ascending int64.

    Args:
        plan: The version's plan.
        directory: Where it stands.
        key: Place in the mixture.
        numbers: Documents of its source, ascending int64.
        end: The global index after the last sample that counts.
    """
    documents, ends = open_order(directory, key)
    entries = [
        first + np.flatnonzero(is_one_of(documents[first : first + CHUNK], numbers))
        for first in range(0, len(documents), CHUNK)
    ]
    samples: set[int] = set()
    for entry in np.concatenate(entries).tolist() if entries else ():
        begin = int(ends[entry - 1]) if entry else 0
        samples |= set(range(begin // plan.seq_length, (int(ends[entry]) - 1) // plan.seq_length + 1))
    first, stop = (samples_consumed((plan, index), key) for index in (plan.first_sample, end))
    taken = sorted({place for sample in samples for place in _places(plan, key, sample, first, stop)})
    return np.array([_index(plan, key, place) for place in taken], np.int64)


def _places(plan: Plan, key: str, sample: int, first: int, stop: int) -> Iterator[int]:
    """Where a sample stands in [first, stop) of the order in which a stream is read; the inverse of `plan.place_of`."""
    entry = plan.sources[key]
    size, pool = entry["samples_per_epoch"], entry["pool"]
    if pool and pool["order"] == "shuffled":
        sample = inverse(sample, pool["samples_per_epoch"], epoch_key(plan.seed, pool["key"], 0))
    if sample >= size or first >= stop:
        return  # it is no part of the pool, or nothing is read
    for epoch in range(first // size, (stop - 1) // size + 1):
        place = sample
        if entry["order"] == "shuffled":
            place = inverse(sample, size, epoch_key(plan.seed, key, epoch))
        if first <= epoch * size + place < stop:
            yield epoch * size + place


def _index(plan: Plan, key: str, taken: int) -> int:
    """The global index of the sample that is a stream's n-th, counted from the lineage's first."""
    number = plan.keys.index(key)
    phase = plan.phases[bisect_right(plan.phases, taken, key=lambda phase: phase.start[number]) - 1]
    block, rest = divmod(taken - phase.start[number], phase.counts[number])
    position = int(np.flatnonzero(phase.pattern == number)[rest])
    return phase.first_sample + block * len(phase.pattern) + position


def reads_of(recipe: Recipe, name: str, texts: list[str]) -> dict[str, Reads]:
    """How a version has read documents with some texts so far, by place in the mixture; empty before it has a plan.

    Args:
        recipe: The one by which it was made.
        name: The version.
        texts: Hashes of the texts (column `hash` of `docs.parquet`).
    """
    version, batch = recipe.paths.version(name), recipe.training.global_batch_size
    if not (is_finished(version.plan) and version.inputs.exists()):
        return {}
    plan = open_plan(version.plan, appended=appended_phases(version))
    end = plan.first_sample + steps_done(version.directory) * batch
    data, found = read_inputs(version)["data"], dict[str, Reads]()
    known: dict[str, np.ndarray] = {}
    for key, entry in plan.sources.items():
        if (source := source_of(entry["source"])) not in known:
            place = recipe.paths.data / Path(data[source]).name
            known[source] = documents_with(place, "hash", texts).numbers
        if not len(known[source]):
            continue
        samples = samples_with(plan, version.plan, key, known[source], end)
        if len(samples):
            first, last = (int(index - plan.first_sample) // batch + 1 for index in (samples[0], samples[-1]))
            forgets = is_forgotten(recipe.versions[name], key)
            found[key] = Reads(entry["source"], is_replayed(key), forgets, len(samples), first, last)
    return found


@dataclass(frozen=True)
class Clean:
    """The last state of a lineage that had not read some documents.

    Attributes:
        version: The ancestor; None: the initial model, of which nobody here knows what it read.
        reader: The version that read them next.
        before: The step of `reader` that first did.
        checkpoint: The newest checkpoint of `reader` before that step; None if there is none.
    """

    version: str | None
    reader: str
    before: int
    checkpoint: int | None


def last_clean(recipes: dict[str, Recipe], name: str, reads: dict[str, dict[str, Reads]]) -> Clean | None:
    """The last state on a version's path that had not read some documents; None if the version has not, nor any ancestor.

    Args:
        recipes: The recipe by which each version was made.
        name: The version.
        reads: What `reads_of` says of each version.
    """
    before, path = None, [*ancestors(recipes[name], name), (name, None)]
    for version, steps in path:
        first = min((each.first_step for each in reads.get(version, {}).values()), default=None)
        if first is not None and (steps is None or first <= steps):
            saved = (
                recipes[version].paths.version(version).finished_checkpoints() if version in recipes else ()
            )
            return Clean(before, version, first, max((step for step in saved if step < first), default=None))
        for other in parents_of(recipes[name].versions[version])[1:]:  # of a merge
            if (found := last_clean(recipes, other, reads)) is not None:
                return found
        before = version
    return None
