"""Trains a version to its end, or measures a finished one again: what a rank does from start to finish."""

import logging
from contextlib import closing
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch.distributed as dist

from perdure.pipeline.core import logs
from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.manifest import finish
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.evaluate.documents import require_tables
from perdure.pipeline.model import collectives, huggingface, weights
from perdure.pipeline.model.adapter_files import write_adapter
from perdure.pipeline.model.adapters import merge_adapters
from perdure.pipeline.model.device import devices, used_memory
from perdure.pipeline.model.export import export
from perdure.pipeline.model.exports import version_files
from perdure.pipeline.model.language_model import unwrap
from perdure.pipeline.model.orthogonal import keep_orthogonal
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.lineage import kept_steps
from perdure.pipeline.plan.plan import num_steps, open_plan
from perdure.pipeline.recipe import KLAnchor, LoRA
from perdure.pipeline.train import fence, process
from perdure.pipeline.train.checkpoint import Checkpoints
from perdure.pipeline.train.dataset import open_dataset
from perdure.pipeline.train.finished import declare_whole, version_record
from perdure.pipeline.train.loader import Loader
from perdure.pipeline.train.metrics import Recorder
from perdure.pipeline.train.mirror import open_run
from perdure.pipeline.train.objectives import objective_of
from perdure.pipeline.train.progress import heldout_words
from perdure.pipeline.train.selection_report import write_annotated_sample, write_selection_counts
from perdure.pipeline.train.session import Session, measure
from perdure.pipeline.train.start import begin, initial_weights
from perdure.pipeline.train.teacher import make_teacher
from perdure.pipeline.train.trainer import Trainer

logger = logging.getLogger(__name__)


def train_version(session: Session) -> None:
    """Trains a version from where it stands to its end, evaluates and exports it, and declares it whole."""
    trainer = make_trainer(session)
    if trainer.state.step == 0 and session.version.start.type == "init":
        measure(session, "eval_initial.json", 0)
    trainer.recorder = make_recorder(trainer)
    with process.stops_deferred(), closing(trainer.loader):
        trainer.train()
    used = [peak for peak in collectives.from_all(used_memory()) if peak is not None]
    if session.version.adapter:
        merge(session, session.version.adapter)
    domains = measure(session, "eval.json", trainer.state.step)
    if session.version.selection:
        write_selection(trainer)
    export(
        unwrap(session.model),
        session.recipe,
        session.inputs["vocab_size"],
        session.inputs["eos_id"],
        session.tokenizer,
        session.paths.export,
    )
    if dist.get_rank() == 0:
        finish_version(trainer, domains, max(used, default=None))
        logger.info(heldout_words(domains))


def measure_again(session: Session) -> None:
    """Measures a finished version from its export, and what it started from; declares the evaluation whole."""
    paths, recipe, inputs, model = session.paths, session.recipe, session.inputs, unwrap(session.model)
    shape = model_shape(recipe)
    if session.version.start.type == "init":
        with logs.silenced():
            initial_weights(model, recipe, shape, inputs["vocab_size"], inputs)
        measure(session, "eval_initial.json", 0)
    exported = VersionPaths(paths.directory.parent).export
    weights.load_weights(model, shape, huggingface.weights_reader(exported))
    domains = measure(session, "eval.json", num_steps(recipe, session.version))
    if dist.get_rank() == 0:
        with fence.held(paths.directory, session.attempt):
            files = hash_files(paths.directory, version_files(paths.directory))
            finish(paths.directory, {"measured": inputs["measured"], "files": files})
    logger.info(heldout_words(domains))


def make_trainer(session: Session) -> Trainer:
    """The trainer of a version where its last checkpoint, or its start, left it; it records nothing yet."""
    recipe, paths, inputs = session.recipe, session.paths, session.inputs
    if dist.get_rank() == 0:
        require_tables(paths.initial_evaluation)  # nothing would make it again
    kept = kept_steps(recipe, session.name)
    checkpoints = Checkpoints(paths.directory, session.attempt, recipe.training.async_checkpoint, kept)
    for path in checkpoints.remove_partial():
        logger.info(f"{path.name}: half-written, so it is removed")
    optimizer, state = begin(paths.directory, recipe, inputs, session.model, session.choices)
    penalty = None
    if adapters := inputs.get("adapters"):
        assert session.version.adapter
        weight = session.version.adapter.orthogonal_weight
        penalty = keep_orthogonal(unwrap(session.model), list(map(Path, adapters.values())), weight)
    scores = {name: Path(path) for name, path in inputs["scores"].items()}
    anchor = session.version.anchor
    teacher = make_teacher(session, anchor) if isinstance(anchor, KLAnchor) else None
    objective = objective_of(session.version, teacher, open_plan(paths.plan).keys)
    dataset = open_dataset(paths.plan, session.data, scores, state.phases, objective)
    rank = mpu.get_data_parallel_rank()
    loader = Loader(dataset, session.layout, recipe.training, rank, session.device)
    return Trainer(session, optimizer, dataset, loader, objective, state, checkpoints, None, penalty)


def make_recorder(trainer: Trainer) -> Recorder | None:
    """Writes a version's metrics from the trainer's step on, on rank 0."""
    if dist.get_rank():
        return None
    session, state = trainer.session, trainer.state
    run = open_run(session.recipe, session.name, session.paths.directory)
    keys = trainer.dataset.plan.keys
    return Recorder(session.paths.directory, state.step, keys, devices()[1], run, state.metrics)


def merge(session: Session, adapter: LoRA) -> None:
    """Writes the trained adapter by itself, and makes the model an ordinary one, which is what is measured and exported."""
    base = session.inputs["initial_weights"]
    assert base is not None
    write_adapter(unwrap(session.model), adapter, base, session.paths.adapter)
    merge_adapters(unwrap(session.model))
    logger.info("adapter: merged into the weights; what is measured and exported is the merged model")


def write_selection(trainer: Trainer) -> None:
    """Writes what the finished model selects, for the report."""
    session, dataset = trainer.session, trainer.dataset
    model, training, selection = session.model, session.recipe.training, session.version.selection
    assert selection is not None
    write_annotated_sample(
        session.paths.passage, model, training, selection, dataset, session.tokenizer, session.device
    )
    write_selection_counts(
        session.paths.chosen, model, training, selection, dataset, session.data, session.device
    )


def finish_version(trainer: Trainer, domains: dict[str, dict], peak_memory: int | None = None) -> None:
    """Records what a version came to and declares it whole, on rank 0.

    Args:
        trainer: After its last step; its recorder is closed.
        domains: Held-out results by domain.
        peak_memory: Most bytes in use on any GPU while it trained; None on CPUs.
    """
    session, recorder, step = trainer.session, trainer.recorder, trainer.state.step
    assert recorder is not None
    if session.version.selection:
        collectives.await_file(session.paths.chosen)  # by the last stage
        recorder.chosen(step, read_json(session.paths.chosen))
    recorder.evaluation(step, domains)
    recorder.close()
    record = version_record(
        session, trainer.state, domains, trainer.dataset.plan.first_sample, recorder.lost_device_seconds
    )
    if session.version.adapter:
        record["adapter"] = session.version.adapter.model_dump(mode="json")
    if peak_memory is not None:
        record["peak_memory_bytes"] = peak_memory
    identity, plan_hash = session.inputs["identity"], trainer.dataset.plan.hash
    declare_whole(session, record, {"identity": identity, "plan_hash": plan_hash})
