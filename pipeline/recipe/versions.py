"""Fields of a version: its start and mixture, and what it has besides."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from perdure.pipeline.recipe.adapters import LoRA
from perdure.pipeline.recipe.anchors import Anchor, KLAnchor
from perdure.pipeline.recipe.averages import Average
from perdure.pipeline.recipe.hooks import ElasticReset, Reptile
from perdure.pipeline.recipe.keep import Keep
from perdure.pipeline.recipe.mixture_sources import MixtureSource
from perdure.pipeline.recipe.objectives import Forget, Objective, Preference
from perdure.pipeline.recipe.schedules import Schedule
from perdure.pipeline.recipe.section import Budget, DocumentIds, ModelName, Positive, Section
from perdure.pipeline.recipe.selection import Selection
from perdure.pipeline.recipe.starts import Merge, Start, Update


class Replay(Section):
    """Old data mixed into the new, against forgetting (Ibrahim et al. 2024)."""

    share: Annotated[float, Field(ge=0, lt=1)]
    """Share of the tokens that are trained on; replayed ones replace new ones, so that the budget is the same
    (compute-equivalent). 0 is no replay at all."""
    share_of: Literal["trained", "read"] = "trained"
    """What `share` is a share of. Under a selection with k below 1 a part of the new tokens is read and not trained on,
    while replay is trained on whole: `trained` reads fewer replayed samples, s k / (1 - s + s k) of all for a share s;
    `read` reads the share s itself, of which more than s is trained on (what 0.1 did). Without selection both are the same.
    Labels that the mask of a source leaves out count as if they were trained on."""
    sources: dict[str, MixtureSource] = Field(default_factory=dict)
    """What is replayed, from whole sources; either this or `from_parents`."""
    from_parents: bool = False
    """Replay, with equal chances, the very samples that the ancestors of this version trained on."""
    order: Literal["shuffled", "given"] = "shuffled"
    """With `from_parents`: in random order, reshuffled every time over, or in the order in which the ancestors saw them."""


class Switch(Section):
    """A planned change of the new sources' shares; exactly one of `at`, `at_tokens` and `at_lr` says when."""

    at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """After this share of the version's steps."""
    at_tokens: Positive | None = None
    """After this many of the version's tokens, rounded up to whole steps."""
    at_lr: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Once the learning rate has fallen from its peak to this share of it: 0.2 for "reuse, don't retrain"."""
    sources: Annotated[dict[str, MixtureSource], Field(min_length=1)]
    """The new data from there on, instead of what stood before; replay keeps its share."""


class Reweight(Section):
    """Shares of the new sources that follow their held-out perplexity (Llama-3-SynE, arXiv 2407.18743).

    Every `interval` tokens, source i's share r_i becomes r_i f_i / sum(r f), with f_i = 1 + alpha d_i w_i and d_i its
    perplexity's change since the last measurement, divided by the largest change of any source (of its group): what gets
    worse gets more data. The first measurement is made before the first step.
    """

    interval: Positive
    """Tokens between measurements, rounded up to whole steps."""
    alpha: Annotated[float, Field(gt=0)]
    """Step size of the update; alpha times the largest of `weights` should be below 1."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """w_i by name in `sources`; 1 where one is not named."""
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Smallest share of a source among the new ones, or among those of its group."""
    groups: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Names in `sources` whose total share is fixed, by any name for the group: that of their weights. Shares move inside a
    group, by its own largest change, as if it were a mixture by itself; so languages keep their shares while topics move.
    Sources of no group are one more group. Default: all move together."""
    max_tokens: Positive | None = None
    """Held-out tokens per source and measurement; default: `evaluation.max_tokens`."""


class Mixture(Section):
    """What a version trains on, in which shares and order.

    A source that an ancestor trained on in the same order goes on after what was consumed, so that nothing repeats
    before everything was seen.
    """

    sources: Annotated[dict[str, MixtureSource], Field(min_length=1)]
    """The new data: by source (`web`), or by the part of one with a topic (`web/science`), a language (`web@de`), both
    (`web@de/science`), or dates (`web[2023-01..2023-06]`, both ends included, either may be left out), each with its own
    weight, order and held-out loss. A document can be in one of them only."""
    domain_order: Literal["given", "random", "similarity"] | None = None
    """Trains on the new domains one after another, each for its share of the steps (Yildiz et al. 2024): as they stand
    in `sources`, shuffled by the seed, or each followed by the most similar one that is left, from replayed data or else
    the first of `sources` on. Similar is a small Jensen-Shannon divergence of token frequencies. Default: mixed."""
    replay: Replay | None = None
    """Old data mixed in."""
    switches: tuple[Switch, ...] = ()
    """Planned changes of the new sources' shares, in order."""
    reweight: Reweight | None = None
    """Changes of the shares while training, by held-out perplexity."""
    withdrawn: dict[str, DocumentIds] = Field(default={}, exclude_if=lambda withdrawn: not withdrawn)
    """By source, documents that neither this version nor any that starts from it reads, as new data or replayed: their ids (the
    reader's `id_field`, column `id` of `docs.parquet`), or a file with one a line. Every document of any source with the same
    text is left out, too. All other documents stay in the samples in which they stood; where one is missing, a sample has as
    much more padding. `perdure log --contains ID` tells who has read a document already. Default: none."""
    perplexity_model: ModelName | None = None
    """Scores documents for an order by perplexity and for `lowest_perplexity`: an earlier version's name, or a Hugging
    Face directory (with a `/`)."""
    max_repetition: Annotated[float, Field(gt=0, allow_inf_nan=True)] = 4.0
    """Epochs over any one source, those of its ancestors included, beyond which the recipe is refused; `.inf`: never. With
    `reweight`, a source that has come so far is held at `floor` from the next measurement on."""

    @field_validator("replay")
    @classmethod
    def _none_of_nothing(cls, replay: Replay | None) -> Replay | None:
        """Removes replay with a share of 0, so that both spellings are the same version."""
        return replay if replay is not None and replay.share else None

    @field_validator("withdrawn")
    @classmethod
    def _none_of_no_documents(cls, withdrawn: dict[str, DocumentIds]) -> dict[str, DocumentIds]:
        """Removes sources of which nothing is withdrawn, so that both spellings are the same version."""
        return {source: listed for source, listed in withdrawn.items() if listed}


class Version(Section):
    """One version of the model: where it starts, what it trains on, for how long and how."""

    start: Start
    """`init`, `update`, `branch` or `merge`; going on after an interruption is automatic."""
    tokens: Budget
    """Token budget, rounded up to whole optimizer steps; 0 for a `merge`, which does not train."""
    mixture: Mixture
    """Sources, shares and order of the training data; a `merge` has its first parent's."""
    schedule: Schedule
    """The learning rate over its steps; a `merge` has its first parent's."""
    objective: Objective | None = None
    """What is learnt: `{type: instruct}` trains on conversations, `{type: preference}` on pairs of answers, `{type: forget}`
    takes back what is known of some documents; default: the next token of all text. Of a source of conversations the
    assistant's turns alone count under any, of one of pairs elsewhere than under `preference` the chosen answers."""
    selection: Selection | None = None
    """Selective-token loss; without it every token counts."""
    adapter: LoRA | None = None
    """Low-rank matrices that an update trains in place of the weights; without it all weights are trained."""
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] | None = None
    """AdamW's decay in this version; default: `training.weight_decay`, in a branch its parent's."""
    anchor: Anchor | None = None
    """What holds it near its parent; default: nothing."""
    keep: Keep = ()
    """Steps whose checkpoints are kept for good, to branch off from or to average later: a list of them, or `{every: N}`. Those
    that a `branch` of this recipe starts from are kept in any case."""
    elastic_reset: ElasticReset | None = None
    """Sets the weights back to their running average at intervals; default: never."""
    reptile: Reptile | None = None
    """Draws the weights back towards where they stood at intervals; default: never."""

    @field_validator("anchor")
    @classmethod
    def _none_of_nothing(cls, anchor: Anchor | None) -> Anchor | None:
        """Removes an anchor of strength or weight 0, so that both spellings are the same version."""
        strength = anchor and (anchor.weight if isinstance(anchor, KLAnchor) else anchor.strength)
        return anchor if strength else None

    @field_validator("adapter")
    @classmethod
    def _none_of_rank_0(cls, adapter: LoRA | None) -> LoRA | None:
        """Removes an adapter of rank 0, and names of adapters to be orthogonal to without weight: each has one spelling."""
        if adapter is None or not adapter.rank:
            return None
        return adapter if adapter.orthogonal_weight else adapter.model_copy(update={"orthogonal_to": ()})

    @field_validator("reptile")
    @classmethod
    def _none_that_keeps_all(cls, reptile: Reptile | None) -> Reptile | None:
        """Removes Reptile with a rate of 1, so that both spellings are the same version."""
        return reptile if reptile is not None and reptile.rate < 1 else None

    @property
    def is_computed(self) -> bool:
        """Whether it is computed from other versions' weights, without a step of training."""
        return isinstance(self.start, Merge | Average)

    @property
    def needs_scores(self) -> bool:
        """Whether a model has to score documents before the version can train, for its selection or for perplexities."""
        if self.is_computed:
            return False
        return self.scored_by is not None or self.mixture.perplexity_model is not None

    @property
    def scored_by(self) -> str | None:
        """The model whose losses training reads beside the tokens of new data; None if it reads none."""
        if isinstance(self.objective, Forget):
            return (
                self.start.parent
                if isinstance(self.start, Update) and self.objective.method == "npo"
                else None
            )
        if isinstance(self.objective, Preference):
            return self.objective.reference or (self.start.parent if isinstance(self.start, Update) else None)
        selects = self.selection is not None and self.selection.needed_sidecars
        return self.selection.reference if self.selection and selects else None

    @property
    def unscored(self) -> tuple[str, ...]:
        """Names of new data of which training reads no losses of that model."""
        if isinstance(self.objective, Preference):
            return tuple(self.objective.retain)
        if not isinstance(self.objective, Forget):
            return ()
        parts = (self.mixture.sources, *(switch.sources for switch in self.mixture.switches))
        return tuple(name for part in parts for name in part if name != self.objective.source)
