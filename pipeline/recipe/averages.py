"""A version that averages the checkpoints of another one: fields of `start: {type: average}`."""

from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import Name, Positive, Section

Shape = Literal["uniform", "linear", "inverse_sqrt", "ema"]


class Average(Section):
    """A version that is computed from the checkpoints of a finished one, without training (its `tokens` are 0).

    Averaging the checkpoints of a run at a constant rate replaces a decay of the rate (WSM, arXiv 2507.17634): each `shape` is
    named by the decay that it equals, which `perdure check` draws. How long the averaged stretch is matters most. Sums are made
    in fp64 of fp32 weights and rounded once. It goes on in the path of `of`: mixture, schedule, tokens and what `from_parents`
    replays are that one's. An update of it resets moments.
    """

    type: Literal["average"]
    of: Name
    """The version whose checkpoints are averaged; its `keep` says which there are."""
    last: Annotated[Positive, Field(le=10_000)] | None = None
    """Averages the last so many of the steps that its `keep` names and its last step. Either this or `steps`."""
    steps: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """Averages the checkpoints of these steps, in rising order."""
    shape: Shape = "uniform"
    """The decay that the average equals, from the first to the last checkpoint. `uniform`: equal weights; linear, and would
    reach 0 one interval after the last. `linear`: linear to 0 at the last one, which so has no weight. `inverse_sqrt`: 1 -
    sqrt(way), to 0 at the last one. `ema`: the running average that `training.ema` keeps, from the last checkpoint; neither
    `last` nor `steps`."""

    @property
    def parent(self) -> str:
        """The version whose path it goes on in."""
        return self.of
