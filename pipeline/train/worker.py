"""One rank of the trainer: `python -m perdure.pipeline.train.worker DIRECTORY train|evaluate`.

Everything it needs stands in the version's directory: `recipe.yaml`, `inputs.json` and `plan/`. It goes on from the
last checkpoint if there is one. Afterwards it evaluates, exports to Hugging Face, and declares the version whole. To evaluate
a finished version again, it gets the evaluation's directory (`evaluate/record.py`), with `recipe.yaml` and `inputs.json` of its own.
"""

import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path

from perdure.pipeline.core import logs
from perdure.pipeline.core.cores import sleep_while_waiting
from perdure.pipeline.core.errors import PerdureError, Stopped
from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.core.manifest import disk_errors, finish
from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import VersionInputs, read_inputs
from perdure.pipeline.core.remembered_hashes import hash_files
from perdure.pipeline.model.exports import export_hash, version_files
from perdure.pipeline.model.layout import layout_of
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.plan.domains import measured_domains
from perdure.pipeline.plan.lineage import kept_steps
from perdure.pipeline.plan.plan import Plan, num_samples, num_steps, open_plan
from perdure.pipeline.plan.recorded import version_recipe
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train import fence, process

logger = logging.getLogger("perdure.pipeline.train.worker")  # also when it is `__main__`


def main(directory: Path, task: str) -> None:
    """Trains, evaluates and exports one version, or evaluates a finished one again; all ranks run this.

    Args:
        directory: The version's directory, or that of an evaluation, prepared by `perdure.pipeline.run.run`.
        task: `train` or `evaluate`.
    """
    # Megatron warns of every fused package that is absent.
    warnings.filterwarnings("ignore", module="megatron")
    # torch 2.13 renamed collectives that Megatron calls by their old names.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # Megatron reads checkpoints through torch's ShardedTensor. On CPUs the warning's module is ours, which hands its calls on.
    warnings.filterwarnings("ignore", "Please use DTensor", FutureWarning)
    # Of main parameters' gradients, which the distributed optimizer keeps elsewhere.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    import torch.distributed as dist

    from perdure.pipeline.evaluate.documents import require_tables, table_name, write_tables
    from perdure.pipeline.model import collectives, huggingface, weights
    from perdure.pipeline.model.device import devices, initialise
    from perdure.pipeline.model.export import export
    from perdure.pipeline.model.language_model import build_model, unwrap
    from perdure.pipeline.train import checkpoint, evaluate
    from perdure.pipeline.train.dataset import open_dataset
    from perdure.pipeline.train.loop import run_steps
    from perdure.pipeline.train.metrics import Recorder, heldout_words
    from perdure.pipeline.train.mirror import open_run
    from perdure.pipeline.train.objectives import objective_of
    from perdure.pipeline.train.probes import encode_probes, score_probes
    from perdure.pipeline.train.selection_report import write_annotated_sample, write_selection_counts
    from perdure.pipeline.train.start import begin, initial_weights, origin

    # Together first: on a machine that starts before the others, these files may be an earlier start's.
    device = initialise()
    recipe, inputs = version_recipe(directory), read_inputs(VersionPaths(directory))
    version = recipe.versions[inputs["version"]]
    shape, vocab_size = model_shape(recipe), inputs["vocab_size"]
    data = {name: Path(path) for name, path in inputs["data"].items()}
    logs.set_version(inputs["version"])
    if dist.get_world_size() != layout_of(recipe).world_size:
        raise PerdureError(
            f"{dist.get_world_size()} ranks were started, but the recipe's layout needs "
            f"{layout_of(recipe).world_size} (tensor x pipeline x data parallel)"
        )
    plan = ("plan/plan.json",) if task == "train" else ()
    for file in ("recipe.yaml", "inputs.json", *plan):
        collectives.require_same(str(directory / file), hash_file(directory / file)[:8])
    # Before anything is trained: a question that cannot be asked should not be found out at the end.
    questions = encode_probes(recipe, Path(inputs["tokenizer"]))
    attempt = fence.take_together(directory)
    model = build_model(recipe, vocab_size, device)

    def measure(file: str, step: int) -> dict[str, dict]:
        domains = evaluate.evaluate(model, recipe, measured_domains(recipe), data, device)
        assert domains is not None
        answers = score_probes(model, recipe, questions, inputs["eos_id"], device)
        if dist.get_rank() == 0:
            content = {
                "version": inputs["version"],
                "step": step,
                "measured": inputs["measured"],
                "domains": evaluate.summaries(domains),
            }
            with fence.held(directory, attempt):
                tables = {"documents": [domain.documents for domain in domains.values()]}
                if answers is None:
                    (directory / table_name(file, "probes")).unlink(missing_ok=True)
                else:
                    tables["probes"] = [answers]
                for what, rows in tables.items():
                    write_tables(directory / table_name(file, what), rows)
                # Last: it says what the tables were made of.
                names = [table_name(file, what) for what in tables]
                write_json(
                    directory / file,
                    content | {"tables": {name: hash_file(directory / name) for name in names}},
                )
        return evaluate.summaries(domains)

    if task == "evaluate":
        if version.start.type == "init":
            with logs.silenced():
                initial_weights(unwrap(model), recipe, shape, vocab_size, inputs)
            measure("eval_initial.json", 0)
        weights.load_weights(
            unwrap(model), shape, huggingface.weights_reader(VersionPaths(directory.parent).export)
        )
        domains = measure("eval.json", num_steps(recipe, version))
        if dist.get_rank() == 0:
            with fence.held(directory, attempt):
                files = hash_files(directory, version_files(directory))
                finish(directory, {"measured": inputs["measured"], "files": files})
        logger.info(heldout_words(domains))
        collectives.barrier()
        dist.destroy_process_group()
        return

    if dist.get_rank() == 0:
        require_tables(VersionPaths(directory).initial_evaluation)  # nothing would make it again
    scores = {name: Path(path) for name, path in inputs["scores"].items()}
    kept = kept_steps(recipe, inputs["version"])
    writer = checkpoint.Checkpoints(directory, attempt, recipe.training.async_checkpoint, kept)
    for path in writer.remove_partial():
        logger.info(f"{path.name}: half-written, so it is removed")
    optimizer, state = begin(directory, recipe, inputs, model)
    dataset = open_dataset(VersionPaths(directory).plan, data, scores, state["phases"], objective_of(version))
    if state["step"] == 0 and version.start.type == "init":
        measure("eval_initial.json", 0)

    device_name, number = devices()
    recorder = None
    if dist.get_rank() == 0:
        run = open_run(recipe, inputs["version"], directory)
        recorder = Recorder(directory, state["step"], dataset.plan.keys, number, run, state.get("metrics"))
    with process.stops_deferred():
        state = run_steps(
            directory, recipe, version, model, optimizer, dataset, state, device, recorder, writer
        )
    dataset = replace(dataset, plan=open_plan(VersionPaths(directory).plan, appended=state["phases"]))

    domains = measure("eval.json", state["step"])
    tokenizer = Path(inputs["tokenizer"])
    if version.selection:
        paths, training, selection = VersionPaths(directory), recipe.training, version.selection
        write_annotated_sample(paths.passage, model, training, selection, dataset, tokenizer, device)
        write_selection_counts(paths.chosen, model, training, selection, dataset, data, device)
    export(
        unwrap(model),
        shape,
        vocab_size,
        inputs["eos_id"],
        recipe.training.seq_length,
        tokenizer,
        origin(recipe),
        VersionPaths(directory).export,
    )
    if dist.get_rank() == 0:
        assert recorder is not None
        if version.selection:
            collectives.await_file(VersionPaths(directory).chosen)  # by the last stage
            recorder.chosen(state["step"], read_json(VersionPaths(directory).chosen))
        recorder.evaluation(state["step"], domains)
        recorder.close()
        weights_hash = export_hash(directory)
        with fence.held(directory, attempt):
            cost = {"device": device_name, "lost_device_seconds": recorder.lost_device_seconds}
            _finish(directory, recipe, inputs, dataset.plan, state, weights_hash, domains, cost)
        logger.info(heldout_words(domains))
    collectives.barrier()  # rank 0 has read the whole export
    dist.destroy_process_group()


def _finish(
    directory: Path,
    recipe: Recipe,
    inputs: VersionInputs,
    plan: Plan,
    state: dict,
    weights_hash: str,
    domains: dict[str, dict],
    cost: dict,
) -> None:
    version = recipe.versions[inputs["version"]]
    tokens = sum(state["consumed"].values())
    write_json(
        VersionPaths(directory).record,
        {
            "id": inputs["version"],
            "index": list(recipe.versions).index(inputs["version"]),
            "parent": inputs["parent"],
            "start": version.start.type,
            "status": "finished",
            "steps": state["step"],
            "tokens": tokens,
            "budget_tokens": num_samples(recipe, version) * recipe.training.seq_length,
            "lineage_tokens": tokens + inputs["parent_lineage_tokens"],
            "schedule": state["schedule"],
            "selection": version.selection.model_dump() if version.selection else None,
            "mixture": version.mixture.model_dump(),
            "consumed": state["consumed"],
            "first_sample": plan.first_sample,
            "phases": state["phases"],
            "skipped": state["skipped"],
            "selection_counts": {"scored": state["scored"], "selected": state["selected"]},
            "tokens_per_second": tokens / state["seconds"],
            "parallel": recipe.parallel.model_dump(),
            "weights_hash": weights_hash,
            "parent_weights_hash": inputs["identity"]["initial_weights"],
            "data": inputs["identity"]["data"],
            "tokenizer_hash": inputs["identity"]["tokenizer_hash"],
            "heldout": {name: result["loss"] for name, result in domains.items()},
            "seconds": state["seconds"],
            "device_seconds": state["device_seconds"],
            **cost,
        },
    )
    files = hash_files(directory, version_files(directory))
    finish(directory, {"identity": inputs["identity"], "plan_hash": plan.hash, "files": files})


def _fail(message: str) -> None:
    logger.error(f"error: {message}")
    sys.exit(1)


if __name__ == "__main__":
    sleep_while_waiting()
    logs.configure(plain=True)
    process.start_rank()
    try:
        with disk_errors(Path(sys.argv[1])):
            main(Path(sys.argv[1]), sys.argv[2])
    except Stopped:
        sys.exit(0)
    except PerdureError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        _fail("this version of megatron-core needs triton: pip install triton, or megatron-core 0.16")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("the GPU's memory is full; lower training.micro_batch_size or raise parallel.tensor_parallel")
