"""Fields of a version's objective: what it learns, if not the next token of all text."""

from typing import Literal

from perdure.pipeline.recipe.section import Section


class Instruct(Section):
    """Supervised fine-tuning on conversations: next-token prediction of the assistant's turns, given all that precedes them."""

    type: Literal["instruct"]
    train_on: Literal["all", "last"] = "all"
    """The assistant's turns that are trained on: all, or of each conversation the last."""
