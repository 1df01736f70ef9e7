"""Computes a version from other versions' weights, without training: a merge."""

import logging
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.records import ParentShare, VersionRecord
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.model import collectives, huggingface, weights
from perdure.pipeline.model.device import devices
from perdure.pipeline.model.exports import export_hash, version_files
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.merging import Merging, merge
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.lineage import resolved_schedule
from perdure.pipeline.plan.merged import origin_words, planned_shares
from perdure.pipeline.recipe import Merge
from perdure.pipeline.train import fence
from perdure.pipeline.train.fitting import fit_shares
from perdure.pipeline.train.progress import heldout_words
from perdure.pipeline.train.session import Session, measure

logger = logging.getLogger(__name__)


def compute_version(session: Session) -> None:
    """Merges a version's parents, measures the result, and declares it whole; all ranks call this.

    Rank 0 writes the export from those of the parents, and all ranks load it. What was killed begins anew.
    """
    begun, paths = time.monotonic(), session.paths
    start = session.version.start
    assert isinstance(start, Merge)
    merging, found = planned_merging(session, start), None
    if start.fitted is not None:
        merging, found = fit_shares(session, merging)
    if dist.get_rank() == 0:
        merge(merging, paths.export)
    collectives.barrier()
    collectives.await_file(paths.export / "config.json")
    weights.load_weights(
        unwrap(session.model), model_shape(session.recipe), huggingface.weights_reader(paths.export)
    )
    domains = measure(session, "eval.json", 0)
    if dist.get_rank() == 0:
        finish_computed(session, merging, found, domains, time.monotonic() - begun)
        logger.info(heldout_words(domains))


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
    session: Session,
    merging: Merging,
    found: dict[str, Any] | None,
    domains: dict[str, dict[str, Any]],
    seconds: float,
) -> None:
    """Records what a computed version came to and declares it whole, on rank 0.

    Args:
        session: Its rank's.
        merging: What was merged.
        found: The search for shares; None where they were given.
        domains: Held-out results by domain.
        seconds: How long it took.
    """
    directory, parents = session.paths.directory, used_shares(session, merging)
    weights_hash = export_hash(directory)
    record = computed_record(session, domains, parents, weights_hash, seconds)
    if found is not None:
        record["search"] = found
    logger.info(f"{origin_words(session.version, parents)}: weights {weights_hash}")
    with fence.held(directory, session.attempt):
        write_json(session.paths.record, record)
        files = hash_files(directory, version_files(directory))
        finish(directory, {"identity": session.inputs["identity"], "files": files})


def computed_record(
    session: Session,
    domains: dict[str, dict[str, Any]],
    parents: list[ParentShare],
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
        "parents": parents,
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
