"""What a version learns in place of the next token of all text: fields of `versions.<name>.objective`."""

from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import ModelName, Section


class Instruct(Section):
    """Supervised fine-tuning on conversations: next-token prediction of the assistant's turns, given all that precedes them."""

    type: Literal["instruct"]
    train_on: Literal["all", "last"] = "all"
    """The assistant's turns that are trained on: all, or of each conversation the last."""


class Forget(Section):
    """Unlearning: lowers the likelihood of the documents of one source, while all else of the mixture is trained on as ever.

    A batch's loss is `gamma` times the mean of the method's loss over its forgotten documents, plus the mean cross entropy of
    its other labels. The documents are withdrawn from all other places of the mixture, and from all versions that start from
    this one, as by `mixture.withdrawn`; `replay.from_parents` leaves their source out. Needs `training.document_mask: true`,
    whole documents (`packing`) and a mixture that retains something.
    """

    type: Literal["forget"]
    source: str
    """The source whose documents are forgotten, by its name in `mixture.sources`; its `weight` there decides how many a batch
    has."""
    method: Literal["graddiff", "npo", "simnpo"] = "npo"
    """`graddiff`: gradient ascent on a document's mean loss (Maini et al. 2024, arXiv 2401.06121), which has no bound and
    collapses first. `npo`: -2/beta log sigmoid(-beta r), r the document's log-likelihood less that under the parent
    (Zhang et al. 2024, arXiv 2404.05868): the gradient fades as a document gets unlikely. The parent's losses are made once, by
    the scoring stage, so the version has to be an `update`. `simnpo`: -2/beta log sigmoid(beta l), l the document's mean loss
    (Fan et al. 2024, arXiv 2410.07163): without a reference."""
    beta: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """How soon the gradient fades. Default: 0.1 of `npo`, 4.5 of `simnpo`; `graddiff` has none."""
    gamma: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Weight of forgetting beside a weight of 1 of what is retained. Default: 1; of `simnpo` 0.125."""

    @property
    def strength(self) -> float:
        """`beta`, or its default."""
        return self.beta or {"graddiff": 0.0, "npo": 0.1, "simnpo": 4.5}[self.method]

    @property
    def factor(self) -> float:
        """`gamma`, or its default."""
        if self.gamma is not None:
            return self.gamma
        return 0.125 if self.method == "simnpo" else 1.0


class Preference(Section):
    """Learning from pairs of answers to a prompt, of which one is preferred, without a reward model and without sampling.

    Each source of pairs has a reader with `chosen_field` and `rejected_field`. The loss is the mean over a batch's pairs,
    plus for each source of `retain` its weight times the mean cross entropy of its labels, plus the mean cross entropy of
    what is replayed. Needs `training.document_mask: true`.
    """

    type: Literal["preference"]
    method: Literal["dpo", "ipo"] = "dpo"
    """`dpo`: -log sigmoid(m), m = beta x (how much likelier the chosen answer has become than under the reference, minus the
    same of the rejected one), log-likelihoods summed over an answer's tokens (Rafailov et al. 2023, arXiv 2305.18290). `ipo`:
    (h - 1 / (2 beta))^2, h the same difference of log-likelihoods that are means over an answer's tokens (Azar et al. 2023,
    arXiv 2310.12036, equation 17, as in `trl`): it stops where the difference is wide enough."""
    beta: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    """How close the model stays to the reference: a large value keeps it near."""
    reference: ModelName | None = None
    """The model that likelihoods are compared with: an earlier version's name, or a Hugging Face directory (with a `/`). Its
    losses are made once, by the scoring stage. Default: the parent of an update."""
    retain: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(default_factory=dict)
    """Weight of the mean cross entropy by name in `mixture.sources`, for every source that is not one of pairs: other prompts
    with the parent's own answers, against what the pairs teach beyond what they are about. `{general: 0.2, near: 0.1}` is
    that of C3PO (Stephan et al. 2024, arXiv 2402.10893): prompts of any kind, and such as are almost in the pairs' scope."""


Objective = Annotated[Instruct | Forget | Preference, Field(discriminator="type")]
