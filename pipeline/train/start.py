"""How a version starts: the weights of `init` and `update`, the checkpoint of `resume`."""

from pathlib import Path

from perdure.pipeline.convert import huggingface, llama
from perdure.pipeline.errors import PerdureError
from perdure.pipeline.manifest import differences, read_json
from perdure.pipeline.recipe import LlamaModel, Recipe
from perdure.pipeline.shape import Shape, num_parameters


def initial_weights(model, recipe: Recipe, shape: Shape, vocab_size: int, inputs: dict, say) -> None:
    """Sets the weights that a version starts from, and says what is restored and what is reset."""
    fresh = "reset: optimizer, schedule, plan"
    if inputs["initial_weights"] is not None:
        llama.load_weights(model, shape, huggingface.weights_reader(Path(inputs["initial_weights"])))
        start = (
            f"update of {inputs['parent']}" if inputs["parent"] else f"init from {inputs['initial_weights']}"
        )
        say(f"{start}: restored: weights; {fresh}")
    else:
        assert isinstance(recipe.model, LlamaModel)
        llama.load_weights(
            model, shape, llama.random_weights(shape, vocab_size, recipe.model.init_std, recipe.seed)
        )
        say(f"init: {num_parameters(shape, vocab_size):,} random weights (seed {recipe.seed}); {fresh}")


def origin(recipe: Recipe) -> dict:
    """The entries of a Hugging Face model's `config.json` that its next versions keep."""
    if isinstance(recipe.model, LlamaModel):
        return {}
    config = read_json(recipe.model.path / "config.json")
    return {key: value for key, value in config.items() if key != "torch_dtype"}


def refuse_other_layout(recipe: Recipe, state: dict, path: Path) -> None:
    """Raises PerdureError if the checkpoint at `path` was written under another layout than the recipe's."""
    if differing := differences(state["parallel"], recipe.parallel.model_dump()):
        raise PerdureError(
            f"{path}: written under another layout ({'; '.join(differing)}); go on with the same one"
        )
