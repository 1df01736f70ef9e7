"""The data of a version: its plan says which sample comes next, a stream for each source reads it.

Every rank reads for itself; what it reads follows from the sample index alone, so there is no state to restore.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.plan.domains import source_of
from perdure.pipeline.plan.mixture import is_replayed
from perdure.pipeline.plan.plan import Plan, open_order, open_plan, open_tails, phase_of_sample, place_of
from perdure.pipeline.train.batch import Batch, HostBatch, collate, on_device
from perdure.pipeline.train.streams import Stream, expect_random_access, open_stream, read_sample

if TYPE_CHECKING:  # Megatron's import takes seconds, and reading needs none of it
    from perdure.pipeline.train.objectives.objective import Objective


@dataclass(frozen=True)
class Dataset:
    """A plan with its opened sources.

    Attributes:
        plan: Says where each sample comes from.
        streams: By mixture key.
        objective: Makes scores that are not on disk; None: there are none.
    """

    plan: Plan
    streams: dict[str, Stream]
    objective: "Objective | None" = None


def open_dataset(
    plan_directory: Path,
    data: dict[str, Path],
    scores: dict[str, Path],
    appended: list[dict] | None = None,
    objective: "Objective | None" = None,
) -> Dataset:
    """Maps everything that a plan refers to; the time it takes does not grow with the corpus.

    Args:
        plan_directory: A version's `plan/`.
        data: Data directory per source.
        scores: Directory of scores per new source; empty if the objective needs none.
        appended: Phases that training added to the plan.
        objective: Says which scores are read; None: the reference's losses.

    Raises:
        PerdureError: If a shard is missing or truncated, or a sidecar does not fit its shard.
    """
    plan = open_plan(plan_directory, appended=appended)
    kinds, smoothing = (("ref",), 0) if objective is None else (objective.sidecars, objective.smoothing)
    streams, open_once = {}, cache(open_shard)  # streams of one source share its maps
    for key, entry in plan.sources.items():
        name = source_of(entry["source"])
        documents, ends = open_order(plan_directory, key)
        sidecar = scores.get(name) if kinds and not is_replayed(key) else None
        stream = open_stream(data[name], sidecar, documents, ends, "", kinds, smoothing, open_once)
        streams[key] = replace(
            stream,
            tails=open_tails(plan_directory, key),
            packed="packing" in entry,
            last_turn=entry.get("labels") == "last",
            pairs=entry.get("labels") == "pairs" and not is_replayed(key),
            complete=sidecar is not None and objective is not None and objective.adds_up_scores,
        )
        expect_random_access(streams[key])
    return Dataset(plan, streams, objective)


def read_host_batch(dataset: Dataset, indices: range) -> HostBatch:
    """Reads the samples with these global indices.

    It may run in a thread: all that it looks at is memory-mapped, or never changes.
    """
    plan = dataset.plan
    places = [place_of(plan, index) for index in indices]
    keys = [plan.keys[place.source] for place in places]
    samples = [
        read_sample(
            dataset.streams[key], place.sample, plan.seq_length, key in phase_of_sample(plan, index).plain
        )
        for index, key, place in zip(indices, keys, places, strict=True)
    ]
    objective = dataset.objective
    made = None if objective is None else objective.made_reference(plan.seed, indices, plan.seq_length)
    if made is not None:
        samples = [sample._replace(reference=own) for sample, own in zip(samples, made, strict=True)]
    sources = [place.source for place in places]
    return collate(indices, samples, sources, [is_replayed(plan.keys[number]) for number in sources])


def read_batch(dataset: Dataset, indices: range, device: torch.device) -> Batch:
    """The samples with these global indices on a device."""
    return on_device(read_host_batch(dataset, indices), device)
