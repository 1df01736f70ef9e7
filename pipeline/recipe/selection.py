"""Fields of a version's selection: which tokens it trains on, and by which score."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import ModelName, Positive, Section

Score = Literal["excess", "reference_loss", "reference_entropy", "intersection", "random", "highest_loss"]


@dataclass(frozen=True)
class ScoreRule:
    """How a token's score is made: the trainee's loss, or 0, minus the largest of the reference's numbers.

    Attributes:
        sidecars: The reference's numbers, as `data/score/losses.py` stores them; without any, what is subtracted is random
            or 0, see `train/scores.py`.
        use_nll: Whether the trainee's loss counts.
        words: Which tokens are kept, for people; `{}` stands for the reference.
    """

    sidecars: tuple[str, ...]
    use_nll: bool
    words: str


SCORES: dict[Score, ScoreRule] = {
    "excess": ScoreRule(("ref",), True, "with the highest excess loss over {}"),
    "reference_loss": ScoreRule(("ref",), False, "with the lowest loss of {}"),
    "reference_entropy": ScoreRule(("ent",), False, "with the lowest entropy of {}"),
    "intersection": ScoreRule(("ref", "ent"), False, "with the lowest loss and entropy of {}"),
    "random": ScoreRule((), False, "chosen at random"),
    "highest_loss": ScoreRule((), True, "with the highest loss"),
}
"""Every kind of score."""


class Selection(Section):
    """Selective Language Modeling (RHO-1): train on the tokens with the highest score only.

    It chooses among new data. Replayed data is trained on whole: the reference knows the new domain alone, and
    would drop the very tokens that are replayed against forgetting.
    """

    k: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of tokens that are trained on; 1 is the plain loss."""
    score: Score = "excess"
    """What decides. `excess`: the model's loss minus the reference's. By a reference that was trained on the same corpus
    (section 4.2 of the paper): `reference_loss` prefers tokens of low loss, `reference_entropy` those of low entropy of the
    reference's prediction, `intersection` those with both below one bound in nats, which is set so that the share k of the
    tokens fulfils it. Controls: `random`, by the seed, the sample and the place in it; `highest_loss` of the model."""
    smoothing: Positive | None = None
    """Tokens to either side, of the same document, over which the reference's numbers are averaged before they decide (not in
    the paper): single tokens of clean text can be hard, and of noise easy, but noise comes in stretches. 8 to 32. For the
    scores without the model's own loss; default: every token by itself."""
    reference: ModelName | None = None
    """The reference model: an earlier version's name, or a Hugging Face directory (with a `/`); controls have none."""
    scope: Literal["sequence", "microbatch", "dp_microbatch", "global", "global_lagged"] = "microbatch"
    """Tokens that compete with one another: those of a sequence; of a micro-batch; of the micro-batches that the
    data-parallel replicas work on at the same time (so it depends on `data_parallel`); of the whole batch, exactly, at
    the cost of one more forward pass; of the whole batch against the threshold of the batch before, so that the share
    is k only about."""

    @property
    def sidecars(self) -> tuple[str, ...]:
        """The sidecars that the score is defined by, see `SCORES`."""
        return SCORES[self.score].sidecars

    @property
    def needed_sidecars(self) -> tuple[str, ...]:
        """The sidecars that training reads: none where `k` is 1, since every token is trained on."""
        return self.sidecars if self.k < 1 else ()

    @property
    def use_nll(self) -> bool:
        """Whether the model's loss counts."""
        return SCORES[self.score].use_nll
