"""What tests of conversion ask of the trainer's ranks: `python convert_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
import traceback
from pathlib import Path

import megatron.core.parallel_state as mpu
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tiny import tiny_recipe

from perdure.pipeline.checks import model as checks
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.export import export
from perdure.pipeline.model.language_model import build_model, unwrap
from perdure.pipeline.model.shape import config_vocab_size, model_shape
from perdure.pipeline.model.vocabulary import extension_between
from perdure.pipeline.recipe import Recipe
from perdure.pipeline.train.start import initial_weights


def logits(model, tokens: torch.Tensor) -> torch.Tensor | None:
    """Logits [batch, sequence, padded vocabulary] on the last pipeline stage; None on the others."""
    batch, length = tokens.shape
    if not mpu.is_pipeline_first_stage():
        hidden = torch.empty(length, batch, model.config.hidden_size)
        dist.recv(hidden, mpu.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(hidden)
    with torch.no_grad():
        hidden = super(type(model), model).forward(tokens, torch.arange(length).expand_as(tokens), None)
        if not mpu.is_pipeline_last_stage():
            dist.send(hidden, mpu.get_pipeline_model_parallel_next_rank())
            return None
        tied = model.share_embeddings_and_output_weights
        weight = model.shared_embedding_or_output_weight() if tied else model.output_layer.weight
        found = hidden.transpose(0, 1) @ weight.t()
        parts = [torch.empty_like(found) for _ in range(mpu.get_tensor_model_parallel_world_size())]
        dist.all_gather(parts, found, group=mpu.get_tensor_model_parallel_group())
        return torch.cat(parts, -1)


def round_trip(jobs: list, parallel: dict, tokens: list, max_shard_bytes: int = 1 << 30) -> list:
    """For each model directory: its logits, in `TO/logits.safetensors`, and its export again, in `TO/hf`.

    Args:
        jobs: Pairs of a model directory and a place for results, in which `tokenizer/` is the run's tokenizer.
        parallel: The layout.
        tokens: [batch][sequence].
        max_shard_bytes: Bound of an exported file.
    """
    initialise()
    for source, to in jobs:
        recipe = tiny_recipe(
            Path(to),
            model={"type": "huggingface", "path": source},
            parallel=parallel,
            training__seq_length=1 << 10,
        )
        extension = extension_between(Path(source), Path(to) / "tokenizer")
        vocab_size, shape = config_vocab_size(Path(source)), model_shape(recipe)
        if extension:
            vocab_size = extension.first + len(extension.pieces)
        _round_trip(recipe, vocab_size, shape, torch.tensor(tokens), Path(to), max_shard_bytes)
        mpu.destroy_model_parallel()
    return []


def _round_trip(recipe: Recipe, vocab_size, shape, tokens, to: Path, max_shard_bytes) -> None:
    model = unwrap(build_model(recipe, vocab_size, torch.device("cpu"))).eval()
    source = recipe.model.path
    inputs = {"initial_weights": str(source), "tokenizer": str(to / "tokenizer"), "parent": None}
    initial_weights(model, recipe, shape, vocab_size, inputs)
    found = logits(model, tokens)
    if found is not None and mpu.get_tensor_model_parallel_rank() == 0:
        to.mkdir(parents=True, exist_ok=True)
        save_file({"logits": found[..., :vocab_size].contiguous()}, to / "logits.safetensors")
    export(model, recipe, vocab_size, 0, to / "tokenizer", to / "hf", max_shard_bytes)


def read_all(jobs: list, tokens: list) -> list:
    """For each model directory, as `round_trip`, once the recipe's checks have nothing against it; what they say otherwise."""
    initialise()
    mpu.initialize_model_parallel()
    mpu.initialize_model_parallel = lambda *_arguments, **_options: None  # once for all: groups have threads
    found = []
    for source, to in jobs:
        model = {"type": "huggingface", "path": source}
        recipe = tiny_recipe(Path(to), model=model, training__seq_length=len(tokens[0]))
        try:
            problems = [
                str(problem) for check in (checks.model, checks.sliding_window) for problem in check(recipe)
            ]
            if not problems:
                rows = config_vocab_size(recipe.model.path)
                _round_trip(recipe, rows, model_shape(recipe), torch.tensor(tokens), Path(to), 1 << 30)
            found.append(problems)
        except Exception:
            found.append([f"FAILED: {traceback.format_exc()}"])
    return found


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    value = globals()[function](*json.loads(arguments))
    if dist.get_rank() == 0:
        Path(answer).write_text(json.dumps(value))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
