"""How a version starts: the weights of `init` and `update`, the checkpoint of `resume`."""

from pathlib import Path

from perdure.pipeline.convert import huggingface, weights
from perdure.pipeline.manifest import differences
from perdure.pipeline.recipe import LlamaModel, Recipe
from perdure.pipeline.shape import Shape, num_parameters


def initial_weights(model, recipe: Recipe, shape: Shape, vocab_size: int, inputs: dict, say) -> None:
    """Sets the weights that a version starts from, and says what is restored and what is reset."""
    fresh = "reset: optimizer, schedule, plan"
    if inputs["initial_weights"] is not None:
        weights.load_weights(model, shape, huggingface.weights_reader(Path(inputs["initial_weights"])))
        start = (
            f"update of {inputs['parent']}" if inputs["parent"] else f"init from {inputs['initial_weights']}"
        )
        say(f"{start}: restored: weights; {fresh}")
    else:
        assert isinstance(recipe.model, LlamaModel)
        weights.load_weights(
            model, shape, weights.random_weights(shape, vocab_size, recipe.model.init_std, recipe.seed)
        )
        say(f"init: {num_parameters(shape, vocab_size):,} random weights (seed {recipe.seed}); {fresh}")


def origin(recipe: Recipe) -> Path | None:
    """The Hugging Face model whose config its next versions keep."""
    return None if isinstance(recipe.model, LlamaModel) else recipe.model.path


def say_other_layout(recipe: Recipe, state: dict, say) -> dict:
    """The state of a checkpoint under the recipe's layout; says so if it was written under another one."""
    if differing := differences(state["parallel"], recipe.parallel.model_dump()):
        say(
            f"the layout changed ({'; '.join(differing)}): from here on equal to rounding, "
            "no longer bit for bit, to a run that kept it"
        )
    return state | {"parallel": recipe.parallel.model_dump()}
