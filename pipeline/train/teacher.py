"""Which weights the frozen teacher of a `kl` anchor has."""

import logging
from pathlib import Path

from perdure.pipeline.core import logs
from perdure.pipeline.model import huggingface, weights
from perdure.pipeline.model.choices import in_bf16
from perdure.pipeline.model.language_model import build_stage, unwrap
from perdure.pipeline.model.shape import model_shape
from perdure.pipeline.recipe import KLAnchor
from perdure.pipeline.train.checkpoint import load_weights
from perdure.pipeline.train.objectives.teacher import Teacher
from perdure.pipeline.train.saved import agreed
from perdure.pipeline.train.session import Session
from perdure.pipeline.train.start import initial_weights

logger = logging.getLogger(__name__)


def make_teacher(session: Session, anchor: KLAnchor) -> Teacher:
    """The model that a version is held near to: another version, or the very weights that it starts with.

    All ranks call this, with their model's process groups. It is read anew by every start, from where the version started, so
    that no checkpoint holds it.
    """
    recipe, inputs = session.recipe, session.inputs
    model = unwrap(build_stage(in_bf16(recipe), inputs["vocab_size"], session.device))
    parent_checkpoint = inputs["parent_checkpoint"]
    if anchor.model is not None:
        read = huggingface.weights_reader(Path(inputs["teacher_weights"]))
        weights.load_weights(model, model_shape(recipe), read)
    elif parent_checkpoint is not None:
        path = agreed(lambda: Path(parent_checkpoint))
        assert path is not None
        load_weights(path, model)
    else:
        with logs.silenced():
            initial_weights(model, recipe, model_shape(recipe), inputs["vocab_size"], inputs)
    trained = {name: weight.requires_grad for name, weight in unwrap(session.model).named_parameters()}
    for name, weight in model.named_parameters():
        weight.requires_grad_(trained[name])  # see `Teacher`
    teacher = anchor.model or inputs["parent"] or "the initial model"
    logger.info(f"KL anchor: {teacher} is loaded beside the model and stays as it is")
    return Teacher(model.eval(), recipe.training)
