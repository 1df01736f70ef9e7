"""Training loops, each in a process of its own: `python training.py FUNCTION JSON_ARGUMENTS ANSWER`."""

import json
import sys
import time
from pathlib import Path

import torch


def plain_loop(shape: dict, vocab: int, seq_length: int, batch: int, steps: int) -> list[float]:
    """Seconds of each step but the first: a transformers Llama, torch's AdamW, gradient clipping."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["ffn_hidden_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_attention_heads"],
        num_key_value_heads=shape["num_query_groups"],
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    seconds = []
    for _ in range(steps):
        tokens = torch.randint(1, vocab, (batch, seq_length))
        begun = time.perf_counter()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def our_loop(directory: str, steps: int) -> list[float]:
    """Seconds of each step but the first of a prepared version."""
    from perdure.pipeline.core.files import read_json
    from perdure.pipeline.model import weights
    from perdure.pipeline.model.device import initialise
    from perdure.pipeline.model.language_model import build_model, unwrap
    from perdure.pipeline.model.layout import layout_of
    from perdure.pipeline.model.optimizer import make_optimizer, set_learning_rate
    from perdure.pipeline.model.shape import model_shape
    from perdure.pipeline.recipe import load_recipe
    from perdure.pipeline.train.dataset import open_dataset
    from perdure.pipeline.train.loader import Loader
    from perdure.pipeline.train.objectives import objective_of
    from perdure.pipeline.train.step import train_step

    recipe, inputs = load_recipe(Path(directory) / "recipe.yaml"), read_json(Path(directory) / "inputs.json")
    device = initialise()
    wrapped = build_model(recipe, inputs["vocab_size"], device)
    shape = model_shape(recipe)
    weights.load_weights(unwrap(wrapped), shape, weights.random_weights(shape, inputs["vocab_size"], 0.02, 0))
    optimizer = make_optimizer(recipe.training, wrapped, False)
    paths = [{name: Path(path) for name, path in inputs[part].items()} for part in ("data", "scores")]
    objective = objective_of(recipe.versions[inputs["version"]])
    dataset = open_dataset(Path(directory) / "plan", *paths, objective=objective)
    training = recipe.training
    loader = Loader(dataset, layout_of(recipe), training, 0, device)
    seconds = []
    for step in range(steps):
        begun = time.perf_counter()
        set_learning_rate(optimizer, 1e-4, 0.1)
        train_step(wrapped, optimizer, objective, loader, training, step * training.global_batch_size)
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def main() -> None:
    """Calls the function that the command line names."""
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))


if __name__ == "__main__":
    main()
