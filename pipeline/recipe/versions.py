"""Fields of a version: its start, mixture, schedule and selection."""

from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import Fraction, Name, Positive, Section


class MixtureSource(Section):
    """One source's place in a mixture."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Relative share among its siblings."""
    order: Literal["shuffled", "easy_to_hard", "given"] = "shuffled"
    """Order of documents: shuffled by seed; by rising perplexity under `perplexity_model`; or as read.
    Packed samples are reshuffled every epoch if `shuffled`, else kept in order."""


class Replay(Section):
    """Old data mixed into the new, against forgetting (Ibrahim et al. 2024)."""

    share: Annotated[float, Field(gt=0, lt=1)]
    """Share of all tokens that are replayed; they replace new tokens (compute-equivalent)."""
    sources: Annotated[dict[str, MixtureSource], Field(min_length=1)]
    """What is replayed."""


class Mixture(Section):
    """What a version trains on, in which shares and order."""

    sources: Annotated[dict[str, MixtureSource], Field(min_length=1)]
    """The new data, by source name."""
    replay: Replay | None = None
    """Old data mixed in."""
    perplexity_model: str | None = None
    """Scores documents for `easy_to_hard`: an earlier version's name, or a Hugging Face directory (with a `/`)."""
    max_repetition: Annotated[float, Field(gt=0)] = 4.0
    """Epochs over any one source beyond which the recipe is refused."""


class Init(Section):
    """Start from weights alone: `model`'s random or Hugging Face weights."""

    type: Literal["init"]


class Update(Section):
    """A new version of a parent: its weights; fresh optimizer, schedule and plan; lineage tokens go on."""

    type: Literal["update"]
    parent: Name
    """The version it starts from."""


Start = Annotated[Init | Update, Field(discriminator="type")]


class CosineSchedule(Section):
    """Linear warmup from 0, then cosine decay to the end of the budget (rewarm and re-decay on an update)."""

    type: Literal["cosine"]
    max_lr: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    min_lr: Annotated[float, Field(ge=0)]
    """Learning rate at the last step."""
    warmup: Fraction = 0.01
    """Share of steps that warm up; 0 starts at the maximum."""


class InfiniteSchedule(Section):
    """Warmup, cooldown to a constant that can go on forever, exponential annealing (Ibrahim et al. 2024)."""

    type: Literal["infinite"]
    max_lr: Annotated[float, Field(gt=0)]
    """Peak learning rate, reached after warmup."""
    constant_lr: Annotated[float, Field(gt=0)]
    """Learning rate of the constant phase."""
    min_lr: Annotated[float, Field(gt=0)]
    """Learning rate at the end of annealing."""
    warmup: Fraction = 0.01
    """Share of steps that warm up."""
    cooldown: Fraction = 0.60
    """Share of steps, counted after warmup, that cool down from `max_lr` to `constant_lr`."""
    constant_until: Fraction = 0.85
    """Share of steps, counted after warmup, at which annealing begins; 1 never anneals."""
    cooldown_shape: Literal["cosine", "inverse_sqrt"] = "cosine"
    """Form of the cooldown."""
    inverse_sqrt_alpha: Annotated[float, Field(gt=0)] = 10.0
    """The `a` of the inverse-sqrt cooldown h(x) = 1/sqrt(1 + a x) - 1."""


Schedule = Annotated[CosineSchedule | InfiniteSchedule, Field(discriminator="type")]


class Selection(Section):
    """Selective Language Modeling (RHO-1): train on the tokens with the highest excess loss only.

    It chooses among new data. Replayed data is trained on whole: the reference knows the new domain alone, and
    would drop the very tokens that are replayed against forgetting.
    """

    k: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of tokens that are trained on; 1 is the plain loss."""
    reference: str
    """The reference model: an earlier version's name, or a Hugging Face directory (with a `/`)."""
    scope: Literal["sequence", "microbatch"] = "microbatch"
    """Tokens that compete with one another."""


class Version(Section):
    """One version of the model: where it starts, what it trains on, for how long and how."""

    start: Start
    """`init` or `update`; going on after an interruption is automatic."""
    tokens: Positive
    """Token budget, rounded up to whole optimizer steps."""
    mixture: Mixture
    """What it trains on."""
    schedule: Schedule
    """The learning rate over its steps."""
    selection: Selection | None = None
    """Selective-token loss; without it every token counts."""
