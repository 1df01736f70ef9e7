"""What tests of averages ask of a trainer's rank: `python averaging_ranks.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
from pathlib import Path

import torch
from megatron.core import dist_checkpointing

from perdure.pipeline.core.paths import VersionPaths
from perdure.pipeline.core.records import read_inputs
from perdure.pipeline.model.device import initialise
from perdure.pipeline.model.language_model import build_model
from perdure.pipeline.recipe import load_recipe
from perdure.pipeline.train.saved import finished_checkpoints


def running_average_difference(directory: str, decay: float) -> list[float]:
    """Largest weight of all steps' checkpoints, and how far the last one's running average is from that of these, in fp64."""
    initialise()
    averages: dict[str, torch.Tensor] = {}
    largest = 0.0
    for path in finished_checkpoints(Path(directory) / "checkpoints"):
        tensors = dist_checkpointing.load_plain_tensors(str(path))
        kept = {name.partition("optimizer.state.ema.")[2]: value for name, value in tensors.items()}
        for name in filter(None, kept):
            weight = tensors.get(f"optimizer.state.fp32_param.{name}", tensors[name]).double()
            largest = max(largest, weight.abs().max().item())
            averages[name] = decay * averages[name] + (1 - decay) * weight if name in averages else weight
    assert len(averages) > 5
    return [
        largest,
        max((kept[name].double() - value).abs().max().item() for name, value in averages.items()),
    ]


def export_average(directory: str, source: str, weights: list, shape: str, to: str) -> None:
    """Averages a version's checkpoints under the layout of a recipe, and exports the result.

    Args:
        directory: Has that recipe.
        source: The version's directory.
        weights: Pairs of a step and the weight of its checkpoint.
        shape: Of the average.
        to: Where the export is written.
    """
    from perdure.pipeline.model.export import export
    from perdure.pipeline.model.language_model import unwrap
    from perdure.pipeline.train.averaging import average, stored_names

    paths = VersionPaths(Path(directory))
    recipe, inputs = load_recipe(paths.recipe), read_inputs(paths)
    model = build_model(recipe, inputs["vocab_size"], initialise())
    checkpoints = {VersionPaths(Path(source)).checkpoint(step): weight for step, weight in weights}
    average(checkpoints, model, stored_names(recipe.training.precision, shape))
    tokenizer = Path(inputs["tokenizer"])
    export(unwrap(model), recipe, inputs["vocab_size"], inputs["eos_id"], tokenizer, Path(to))


def summed_plainly(directory: str, weights: list, name: str, to: str) -> None:
    """Sums what checkpoints store under a name, in fp64, for weights that are one tensor there and in Hugging Face's format.

    Args:
        directory: The version's directory.
        weights: Pairs of a step and the weight of its checkpoint.
        name: Prefix of the stored tensors' names.
        to: File of float32 tensors by Hugging Face's names.
    """
    from safetensors.torch import save_file

    initialise()
    sums: dict[str, torch.Tensor] = {}
    for step, weight in weights:
        path = VersionPaths(Path(directory)).checkpoint(step)
        stored = dist_checkpointing.load_plain_tensors(str(path))
        tensors = {
            "model.embed_tokens.weight": stored[f"{name}embedding.word_embeddings.weight"][:300],
            "model.norm.weight": stored[f"{name}decoder.final_layernorm.weight"],
        }
        for ours, theirs in (
            ("mlp.linear_fc2", "mlp.down_proj"),
            ("self_attention.linear_proj", "self_attn.o_proj"),
        ):
            for number, layer in enumerate(stored[f"{name}decoder.layers.{ours}.weight"]):
                tensors[f"model.layers.{number}.{theirs}.weight"] = layer
        for key, tensor in tensors.items():
            assert tensor.dtype == torch.float32
            sums[key] = sums.get(key, 0) + weight * tensor.double()
    save_file({key: total.float().contiguous() for key, total in sums.items()}, to)


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
