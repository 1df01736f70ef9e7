"""The version that a KL anchor names as its teacher."""

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.records import VersionInputs, read_record
from perdure.pipeline.model.shape import config_vocab_size
from perdure.pipeline.recipe import KLAnchor, Recipe
from perdure.pipeline.run.scoring import finished_export


def with_teacher(recipe: Recipe, name: str, inputs: VersionInputs) -> VersionInputs:
    """A version's inputs with its anchor's `model`, and that in its identity; the same if its anchor names none.

    Raises:
        PerdureError: If the teacher is not finished, or has other rows of the vocabulary.
    """
    anchor = recipe.versions[name].anchor
    if not isinstance(anchor, KLAnchor) or anchor.model is None:
        return inputs
    export = finished_export(recipe, anchor.model)
    theirs, ours = config_vocab_size(export), inputs["vocab_size"]
    if theirs != ours:
        raise PerdureError(
            f"version {name}: anchor.model {anchor.model} has a vocabulary of {theirs:,} rows, but {name} has one of {ours:,}; "
            "predictions are compared token by token, so leave `model` out or name a version with the same vocabulary"
        )
    weights_hash = read_record(recipe.paths.version(anchor.model))["weights_hash"]
    return {
        **inputs,
        "teacher_weights": str(export),
        "identity": {**inputs["identity"], "teacher_weights": weights_hash},
    }
