"""Computes a version from other versions' weights, without training: a merge, or an average of checkpoints."""

import logging
import time
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from perdure.pipeline.core.paths import SUCCESS
from perdure.pipeline.core.records import ParentShare, VersionRecord
from perdure.pipeline.model import collectives, huggingface, weights
from perdure.pipeline.model.device import devices
from perdure.pipeline.model.export import export
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.merging import Merging, merge
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.lineage import resolved_schedule
from perdure.pipeline.plan.merged import origin_words, planned_shares
from perdure.pipeline.recipe import Average, Merge
from perdure.pipeline.train.averaging import average, stored_names
from perdure.pipeline.train.finished import declare_whole, version_record
from perdure.pipeline.train.fitting import fit_shares
from perdure.pipeline.train.progress import heldout_words
from perdure.pipeline.train.session import Session, measure
from perdure.pipeline.train.state import TrainState

logger = logging.getLogger(__name__)


def compute_version(session: Session) -> None:
    """Merges a version's parents, or averages checkpoints, measures the result, and declares it whole; all ranks call this.

    What was killed begins anew.
    """
    begun, start = time.monotonic(), session.version.start
    if isinstance(start, Average):
        made = average_version(session, start)
    else:
        assert isinstance(start, Merge)
        made = merge_version(session, start)
    domains = measure(session, "eval.json", 0)
    if dist.get_rank() == 0:
        finish_computed(session, made, domains, time.monotonic() - begun)
        logger.info(heldout_words(domains))


def average_version(session: Session, start: Average) -> dict[str, Any]:
    """Averages checkpoints on the ranks, and exports the result; returns what the record says of it."""
    inputs, checkpoints = session.inputs, session.inputs["averaged"]
    for path in checkpoints:
        collectives.await_file(Path(path) / SUCCESS)
    name = stored_names(session.recipe.training.precision, start.shape)
    average({Path(path): weight for path, weight in checkpoints.items()}, session.model, name)
    export(
        unwrap(session.model),
        session.recipe,
        inputs["vocab_size"],
        inputs["eos_id"],
        session.tokenizer,
        session.paths.export,
    )
    parent: ParentShare = {
        "id": start.of,
        "share": 1.0,
        "weights_hash": inputs["parents"][start.of]["weights_hash"],
    }
    return {"parents": [parent], "averaged": inputs["identity"]["averaged"]}


def merge_version(session: Session, start: Merge) -> dict[str, Any]:
    """Merges parents; returns what the record says of it. Rank 0 writes the export from theirs, and all ranks load it."""
    merging, found, exported = planned_merging(session, start), None, session.paths.export
    if start.fitted is not None:
        merging, found = fit_shares(session, merging)
    if dist.get_rank() == 0:
        merge(merging, exported)
    collectives.barrier()
    collectives.await_file(exported / "config.json")
    read = huggingface.weights_reader(exported)
    weights.load_weights(unwrap(session.model), model_shape(session.recipe), read)
    parents = used_shares(session, merging)
    return {"parents": parents} | ({} if found is None else {"search": found})


def planned_merging(session: Session, start: Merge) -> Merging:
    """What is merged, with the shares that the recipe has; halves where they are to be found."""
    parents = session.inputs["parents"]
    return Merging(
        exports={name: Path(parent["export"]) for name, parent in parents.items()},
        hashes={name: parent["weights_hash"] for name, parent in parents.items()},
        weights=start.weights or dict.fromkeys(start.named, 0.5),
        method=start.method,
        base=start.base,
        scale=1.0 if start.scale is None else start.scale,
        density=1.0 if start.density is None else start.density,
        parent_share=start.parent_share,
        num_layers=model_shape(session.recipe).num_layers,
    )


def used_shares(session: Session, merging: Merging) -> list[ParentShare]:
    """All parents with their shares as used and their hashes, for the record."""
    start = session.version.start
    assert isinstance(start, Merge)
    shares = start.model_copy(update={"weights": merging.weights, "parent_share": merging.parent_share})
    return [parent | {"weights_hash": merging.hashes[parent["id"]]} for parent in planned_shares(shares)]


def finish_computed(
    session: Session, made: dict[str, Any], domains: dict[str, dict[str, Any]], seconds: float
) -> None:
    """Records what a computed version came to and declares it whole, on rank 0; its schedule is that of its first parent.

    Args:
        session: Its rank's.
        made: What the record says of how it was made: `parents`, and a search for shares or the weights of checkpoints.
        domains: Held-out results by domain.
        seconds: How long it took.
    """
    schedule = resolved_schedule(session.recipe, session.name).model_dump(mode="json")
    spent = seconds * devices()[1]
    state = TrainState(consumed={}, seconds=seconds, device_seconds=spent, schedule=schedule)
    record = cast(VersionRecord, version_record(session, state, domains) | made)
    logger.info(f"{origin_words(session.version, made['parents'])}: weights {record['weights_hash']}")
    declare_whole(session, record, {"identity": session.inputs["identity"]})
