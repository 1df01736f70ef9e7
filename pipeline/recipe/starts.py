"""What a version starts from: fields of `versions.<name>.start`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from perdure.pipeline.recipe.averages import Average
from perdure.pipeline.recipe.section import Fraction, Name, Positive, Section


def _listed(value: Any) -> Any:
    """One name as a list of one."""
    return (value,) if isinstance(value, str) else value


class Init(Section):
    """Start from weights alone: `model`'s random or Hugging Face weights."""

    type: Literal["init"]


class Update(Section):
    """A new version of a finished parent: its weights, a schedule of its own; lineage tokens go on."""

    type: Literal["update"]
    parent: Name
    """The version it starts from."""
    moments: Literal["reset", "keep"] = "reset"
    """AdamW's moments, its step count and the fp32 weights: `reset` begins anew from the parent's export; `keep`
    takes them from the parent's last checkpoint."""


class Branch(Section):
    """A version that leaves its parent's path at one of its checkpoints and goes on from there in every respect but
    the schedule: weights, moments and place in the data (path switching, Wang et al. 2024; or the decay of WSD).

    `mixture`, `objective`, `selection` and `weight_decay` are the parent's unless the version has its own; an `anchor` is not:
    it would hold the branch near where it leaves. The parent itself is not changed by it.
    """

    type: Literal["branch"]
    parent: Name
    """The version it leaves; it need not be finished."""
    step: Positive
    """The parent's step after which it leaves. That checkpoint is kept for good."""


class Fitted(Section):
    """Shares of a merge that are found by held-out loss: those that minimise (1 - weight) x old loss + weight x new loss.

    First the best of the shares 0, 0.1, .., 0.5 of the first version everywhere, then run of layers by run of layers in
    steps of 0.1 and of 0.05, until nothing improves. Losses are measured on one half of the held-out documents, and those
    of what was found reported on the other half.
    """

    old: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)]
    """The domains, or the domain, whose mean loss (nats per token) is the old one."""
    new: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)] | None = None
    """Those of the new loss; default: the new sources of the second version that are not in `old`."""
    weight: Fraction = 0.5
    """Weight of the new loss."""


class Merge(Section):
    """A version that is computed from the weights of finished ones, without training (its `tokens` are 0).

    It goes on in the path of the first version that it names: mixture, schedule, tokens and what `from_parents` replays are
    that one's; the others are recorded. Sums are made in fp64 from exported weights and rounded once; the order of versions
    does not change them. A share of 1 beside shares of 0 copies a version's bytes. An update of it resets moments.
    """

    type: Literal["merge"]
    weights: dict[Name, float] = Field(default_factory=dict)
    """Share of each version's weights, by name; with `linear` they sum to 1. Either this or `versions`."""
    versions: tuple[Name, ...] = ()
    """Two versions whose shares are `fitted`."""
    method: Literal["linear", "task_arithmetic", "ties"] = "linear"
    """`linear`: the weighted sum. `task_arithmetic`: the weights of `base` + `scale` x the weighted sum of the versions'
    differences from it (Ilharco et al. 2023, arXiv 2212.04089). `ties`: the same with the largest differences alone, and the
    mean over those whose sign is that of their sum (Yadav et al. 2023, arXiv 2306.01708)."""
    base: Name | None = None
    """The version that differences are taken from, for `task_arithmetic` and `ties`."""
    scale: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    """Factor of the summed differences, for `task_arithmetic` and `ties`; default: 1."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each tensor's differences that `ties` keeps, the largest ones."""
    blocks: Annotated[Positive, Field(le=1024)] | None = None
    """Runs of consecutive layers, as equal as can be, each with a share of its own (HMA, Lin et al. 2024, arXiv 2309.06256)."""
    parent_share: tuple[float, ...] = ()
    """The first version's share in each of the `blocks`, the lowest layers first; the second one has the rest. Embeddings,
    the last norm and the head have `weights`."""
    fitted: Fitted | None = None
    """Finds the shares of two `versions`, one for each of `blocks` (default: 1), by held-out loss."""

    @property
    def named(self) -> tuple[str, ...]:
        """The versions that are summed, the first parent first."""
        return tuple(self.weights) or self.versions

    @property
    def parent(self) -> str | None:
        """The version whose path it goes on in; None if it names none."""
        return next(iter(self.named), None)

    @property
    def models(self) -> tuple[str, ...]:
        """All versions whose weights it reads, each once."""
        return tuple(dict.fromkeys([*self.named, *([self.base] if self.base else [])]))


Start = Annotated[Init | Update | Branch | Merge | Average, Field(discriminator="type")]
