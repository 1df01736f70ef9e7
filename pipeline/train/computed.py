"""Computes a version from other versions' weights, without training: a merge, or an average of checkpoints."""

import logging
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.paths import SUCCESS
from perdure.pipeline.core.records import ParentShare, VersionRecord
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.model import collectives, huggingface, weights
from perdure.pipeline.model.device import devices
from perdure.pipeline.model.export import export
from perdure.pipeline.model.exports import export_hash, version_files
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.merging import Merging, merge
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.lineage import resolved_schedule
from perdure.pipeline.plan.merged import origin_words, planned_shares
from perdure.pipeline.recipe import Average, Merge
from perdure.pipeline.train import fence
from perdure.pipeline.train.averaging import average, stored_names
from perdure.pipeline.train.fitting import fit_shares
from perdure.pipeline.train.progress import heldout_words
from perdure.pipeline.train.session import Session, measure

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
    """Records what a computed version came to and declares it whole, on rank 0.

    Args:
        session: Its rank's.
        made: What the record says of how it was made: `parents`, and a search for shares or the weights of checkpoints.
        domains: Held-out results by domain.
        seconds: How long it took.
    """
    directory = session.paths.directory
    weights_hash = export_hash(directory)
    record = computed_record(session, domains, weights_hash, seconds) | made
    logger.info(f"{origin_words(session.version, made['parents'])}: weights {weights_hash}")
    with fence.held(directory, session.attempt):
        write_json(session.paths.record, record)
        files = hash_files(directory, version_files(directory))
        finish(directory, {"identity": session.inputs["identity"], "files": files})


def computed_record(
    session: Session,
    domains: dict[str, dict[str, Any]],
    weights_hash: str,
    seconds: float,
) -> VersionRecord:
    """What `version.json` of a version without training holds; its tokens and schedule are those of its first parent."""
    recipe, version, inputs = session.recipe, session.version, session.inputs
    identity, (device, devices_used) = inputs["identity"], devices()
    return {
        "id": session.name,
        "index": list(recipe.versions).index(session.name),
        "parent": inputs["parent"],
        "start": version.start.type,
        "status": "finished",
        "steps": 0,
        "tokens": 0,
        "budget_tokens": 0,
        "lineage_tokens": inputs["parent_lineage_tokens"],
        "schedule": resolved_schedule(recipe, session.name).model_dump(mode="json"),
        "selection": None,
        "mixture": version.mixture.model_dump(),
        "consumed": {},
        "first_sample": 0,
        "phases": [],
        "skipped": [],
        "selection_counts": {"scored": 0, "selected": 0},
        "tokens_per_second": 0.0,
        "parallel": recipe.parallel.model_dump(),
        "weights_hash": weights_hash,
        "parent_weights_hash": identity["initial_weights"],
        "data": identity["data"],
        "tokenizer_hash": identity["tokenizer_hash"],
        "heldout": {name: result["loss"] for name, result in domains.items()},
        "seconds": seconds,
        "device_seconds": seconds * devices_used,
        "device": device,
        "lost_device_seconds": 0.0,
    }
