"""Records what a version came to, trained or computed, and declares it whole; on rank 0."""

from typing import Any

from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.records import VersionRecord
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.model.device import devices
from perdure.pipeline.model.exports import export_hash, version_files
from perdure.pipeline.plan.cutoffs import cutoff_of_plan, newest
from perdure.pipeline.plan.plan import num_samples, open_plan
from perdure.pipeline.train import fence
from perdure.pipeline.train.session import Session
from perdure.pipeline.train.state import TrainState


def version_record(
    session: Session,
    state: TrainState,
    domains: dict[str, dict[str, Any]],
    first_sample: int = 0,
    lost_device_seconds: float = 0.0,
) -> VersionRecord:
    """What every `version.json` holds.

    Args:
        session: The version's; its export is written.
        state: After its last step; of a computed version one without steps.
        domains: Held-out results by domain.
        first_sample: Global index of its plan's first sample.
        lost_device_seconds: Seconds of steps that earlier starts lost, times devices.
    """
    recipe, version, inputs = session.recipe, session.version, session.inputs
    identity, tokens = inputs["identity"], state.tokens
    assert state.consumed is not None and state.device_seconds is not None
    record: VersionRecord = {
        "id": session.name,
        "index": list(recipe.versions).index(session.name),
        "parent": inputs["parent"],
        "start": version.start.type,
        "status": "finished",
        "steps": state.step,
        "tokens": tokens,
        "budget_tokens": num_samples(recipe, version) * recipe.training.seq_length,
        "lineage_tokens": tokens + inputs["parent_lineage_tokens"],
        "schedule": state.schedule,
        "selection": version.selection.model_dump() if version.selection else None,
        "mixture": version.mixture.model_dump(),
        "consumed": state.consumed,
        "first_sample": first_sample,
        "phases": state.phases,
        "skipped": state.skipped,
        "selection_counts": {"scored": state.scored, "selected": state.selected},
        "tokens_per_second": tokens / state.seconds,
        "parallel": recipe.parallel.model_dump(),
        "kernels": state.kernels or [],
        "weights_hash": export_hash(session.paths.directory),
        "parent_weights_hash": identity["initial_weights"],
        "data": identity["data"],
        "tokenizer_hash": identity["tokenizer_hash"],
        "heldout": {name: result["loss"] for name, result in domains.items()},
        "seconds": state.seconds,
        "device_seconds": state.device_seconds,
        "device": devices()[0],
        "lost_device_seconds": lost_device_seconds,
    }
    if version.objective:
        record["objective"] = version.objective.model_dump(mode="json")
    if (before := inputs.get("cutoff_before")) is not None:
        record["cutoff"] = before
        if not version.is_computed:
            plan = open_plan(session.paths.plan, appended=state.phases)
            own = cutoff_of_plan(plan, session.paths.plan, session.data, plan.end)
            record["cutoff"] = newest([before, own])
    return record


def declare_whole(session: Session, record: VersionRecord, made_from: dict[str, Any]) -> None:
    """Writes a version's record, hashes its files, and declares it whole.

    Args:
        session: The version's.
        record: From `version_record`.
        made_from: What identifies it, for its manifest.
    """
    directory = session.paths.directory
    with fence.held(directory, session.attempt):
        write_json(session.paths.record, record)
        finish(directory, made_from | {"files": hash_files(directory, version_files(directory))})
