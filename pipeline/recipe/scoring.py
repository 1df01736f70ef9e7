"""Fields of the scoring of text by reference models."""

from typing import Annotated

from pydantic import Field

from perdure.pipeline.recipe.section import Positive, Section


class Scoring(Section):
    """How reference models score text: every token once, given its own document up to it."""

    context: Positive | None = None
    """Tokens that a reference model sees at most; default `training.seq_length`, which is what the trainee sees. It may
    not exceed the positions that the model knows."""
    overlap: Annotated[int, Field(ge=0)] | None = None
    """Tokens that consecutive windows of a document longer than `context` share; default a quarter of it. Without any,
    the first tokens of every window are scored without context: their high reference loss would keep them from being
    selected. A quarter costs a third more on long documents."""

    def windows(self, seq_length: int) -> tuple[int, int]:
        """Context and overlap, in tokens, for a trainee that sees `seq_length`."""
        context = self.context or seq_length
        return context, context // 4 if self.overlap is None else self.overlap
