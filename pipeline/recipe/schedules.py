"""Fields of learning-rate schedules; `perdure.pipeline.plan.schedule` computes them."""

from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import Fraction, Section, Single


class ConstantSchedule(Section):
    """Linear warmup from 0, then a constant: a main path that versions branch off from (path switching)."""

    type: Literal["constant"]
    max_lr: Single
    """The constant learning rate."""
    warmup: Fraction = 0.01
    """Share of steps that warm up; 0 starts at the maximum."""


class CosineSchedule(Section):
    """Linear warmup from 0, then cosine decay to the end of the budget (rewarm and re-decay on an update)."""

    type: Literal["cosine"]
    max_lr: Single
    """Peak learning rate."""
    min_lr: Annotated[float, Field(ge=0)]
    """Learning rate at the last step."""
    warmup: Fraction = 0.01
    """Share of steps that warm up; 0 starts at the maximum."""


class InfiniteSchedule(Section):
    """Warmup, cooldown to a constant that can go on forever, exponential annealing (Ibrahim et al. 2024)."""

    type: Literal["infinite"]
    max_lr: Single
    """Peak learning rate, reached after warmup."""
    constant_lr: Single
    """Learning rate of the constant phase."""
    min_lr: Single
    """Learning rate at the end of annealing."""
    warmup: Fraction = 0.01
    """Share of steps that warm up."""
    cooldown: Fraction = 0.60
    """Share of steps, counted after warmup, that cool down from `max_lr` to `constant_lr`."""
    constant_until: Fraction = 0.85
    """Share of steps, counted after warmup, at which annealing begins; 1 never anneals."""
    cooldown_shape: Literal["cosine", "inverse_sqrt"] = "cosine"
    """Form of the cooldown."""
    inverse_sqrt_alpha: Annotated[float, Field(ge=1e-6, le=1e30)] = 10.0
    """The `a` of the inverse-sqrt cooldown h(x) = 1/sqrt(1 + a x) - 1."""


DecayShape = Literal["cosine", "linear", "exponential", "inverse"]


class WSDSchedule(Section):
    """Warmup, stable, decay (MiniCPM, arXiv 2404.06395); with several ends WSD-S (Wen et al., arXiv 2410.05192)."""

    type: Literal["wsd"]
    max_lr: Single
    """Learning rate of the stable phase."""
    min_lr: Annotated[float, Field(ge=0)]
    """Learning rate at the end of each decay; above 0 for `exponential` and `inverse`."""
    warmup: Fraction = 0.01
    """Share of steps that warm up."""
    decay: Fraction = 0.1
    """Share of the steps since the last decay's end (or the start) that decay."""
    decay_shape: DecayShape = "linear"
    """Form of the decay; `inverse` is linear in 1 / learning rate (WSD-S)."""
    decay_ends: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (1.0,)
    """Shares of the steps at which a decay ends, rising. After one that is not the last step, training goes on from
    the decayed weights at `max_lr` at once (WSD-S)."""


class DecaySchedule(Section):
    """A complete decay without warmup: for a branch (path switching), or to go on from a low rate (reuse, don't retrain).

    Source: Wang et al. 2024 (EMNLP, learning-rate path switching); Parmar et al. 2024 (arXiv 2407.07263).
    """

    type: Literal["decay"]
    max_lr: Single | None = None
    """Where it starts; default: the learning rate that the parent had where this version starts."""
    min_lr: Annotated[float, Field(ge=0)] | None = None
    """Where it ends; default: a hundredth of where it starts. Above 0 for `exponential` and `inverse`."""
    shape: DecayShape = "cosine"
    """Form of the decay."""


class AutoregressiveSchedule(Section):
    """Cosine whose peak falls from version to version (TiC-LM, arXiv 2504.02107).

    Version i's peak is where one cosine over all steps so far and its own would stand after the former; the first
    version's is `max_lr`.
    """

    type: Literal["autoregressive"]
    max_lr: Single
    """Peak of a version without ancestors."""
    min_lr: Annotated[float, Field(ge=0)]
    """Learning rate at the last step of every version."""
    warmup: Fraction = 0.01
    """Share of this version's steps that warm up."""


Schedule = Annotated[
    ConstantSchedule
    | CosineSchedule
    | InfiniteSchedule
    | WSDSchedule
    | DecaySchedule
    | AutoregressiveSchedule,
    Field(discriminator="type"),
]
