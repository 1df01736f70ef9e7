"""How a version starts: the weights of `init` and `update`, the checkpoint of `resume`."""

from pathlib import Path

from perdure.pipeline.convert import huggingface, weights
from perdure.pipeline.convert.vocabulary import extended_reader, extension_between
from perdure.pipeline.manifest import differences
from perdure.pipeline.recipe import LlamaModel, Recipe
from perdure.pipeline.shape import Shape, num_parameters


def initial_weights(model, recipe: Recipe, shape: Shape, vocab_size: int, inputs: dict, say) -> None:
    """Sets the weights that a version starts from, and says what is restored and what is reset."""
    fresh = "reset: optimizer, schedule, plan"
    if inputs["initial_weights"] is not None:
        path = Path(inputs["initial_weights"])
        read, what = huggingface.weights_reader(path), "weights"
        if extension := extension_between(path, Path(inputs["tokenizer"])):
            read = extended_reader(read, extension, vocab_size)
            what += f" (rows of {len(extension.pieces):,} new tokens from the means of their pieces')"
        weights.load_weights(model, shape, read)
        start = (
            f"update of {inputs['parent']}" if inputs["parent"] else f"init from {inputs['initial_weights']}"
        )
        say(f"{start}: restored: {what}; {fresh}")
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
