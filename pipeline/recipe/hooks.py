"""Fields of what acts on a version's weights between its steps: Elastic Reset and Reptile."""

from typing import Annotated

from pydantic import Field

from perdure.pipeline.recipe.section import Positive, Section


class ElasticReset(Section):
    """Sets the weights back to their running average every `interval` steps (Noukhovitch et al. 2023, arXiv 2312.07551).

    The average begins as the weights that the version starts from, and follows them after every update. Every `interval`
    steps the weights become the average, and the average becomes the weights of the start again: a leash to the parent.
    AdamW's moments and step count go on. It acts on fp32 weights; its two copies of them are in the checkpoints.
    """

    interval: Positive
    """Steps between resets. A step that the guard skips resets nothing; an interval above the version's steps is the plain
    run."""
    ema: Annotated[float, Field(gt=0, lt=1)]
    """Decay d of the average: average = d average + (1 - d) weights, after every update. The paper's value is 0.995."""


class Reptile(Section):
    """Draws the weights back towards where they stood `interval` steps ago (Nichol et al. 2018, arXiv 1803.02999; MER).

    With a the weights after the last drawing back, or those of the start: every `interval` steps weights = a + rate (weights -
    a), and a is what they become. The last steps, if fewer than `interval`, stay as they are. AdamW's moments and step count go
    on. It acts on fp32 weights; its copy of them is in the checkpoints.
    """

    interval: Positive
    """Steps between drawings back. A step that the guard skips draws nothing back; an interval above the version's steps is
    the plain run."""
    rate: Annotated[float, Field(gt=0, le=1)]
    """Share of the way that is kept; 1 is the plain run, bit for bit. MER's value is 0.1 every 500 steps."""
