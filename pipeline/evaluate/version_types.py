"""The types of what `report.json` holds of each version.

Losses are mean nats per held-out token, unless a name says bits per byte; what is not measured, or not made yet, is None.
"""

from typing import Any, TypedDict

from perdure.pipeline.core.records import Cutoff
from perdure.pipeline.plan.merged import FittedShares

ByDomain = dict[str, float | None]
"""A number by domain."""


class Evaluation(TypedDict):
    """A model's held-out loss on a domain.

    Attributes:
        loss: Nats per token.
        bits_per_byte: The same in bits per byte.
        documents: Documents that were measured.
        tokens: Their tokens.
        bytes: Their bytes.
    """

    loss: float
    bits_per_byte: float
    documents: int
    tokens: int
    bytes: int


class MixtureMember(TypedDict):
    """A source, or a part of one, in a version's mixture.

    Attributes:
        key: Its key in the plan, `replay/<source>` for replay.
        source: The domain.
        replay: Whether it is replay.
        share: Planned share of tokens.
        order: Order of its documents.
        buckets: Buckets of that order.
        available: Its tokens by the plan; None before it.
        lowest_perplexity: The rule that chose its documents, if one did.
        consumed: Tokens that training consumed.
        consumed_share: Their share of all consumed tokens.
        epochs: How many times it was read.
    """

    key: str
    source: str
    replay: bool
    share: float
    order: str
    buckets: int | None
    available: int | None
    lowest_perplexity: dict[str, Any] | None
    consumed: int | None
    consumed_share: float | None
    epochs: float | None


class MixturePhase(TypedDict):
    """A phase of a version's mixture.

    Attributes:
        after_step: Steps before it.
        after_tokens: Tokens before it.
        reason: Why it began.
        shares: Shares of tokens by key.
    """

    after_step: int
    after_tokens: int
    reason: str
    shares: dict[str, float]


class SchedulePhase(TypedDict):
    """A phase of a version's schedule, with the steps and tokens before it."""

    phase: str
    after_step: int
    after_tokens: int


class ReplayShares(TypedDict):
    """A version's shares of replay.

    Attributes:
        share: The recipe's.
        share_of: What the recipe's is a share of: `read` or `trained`.
        read: Planned share of the tokens read.
        trained: Planned share of the tokens trained on.
        measured: Share of the tokens trained on, as the steps counted.
    """

    share: float
    share_of: str
    read: float
    trained: float
    measured: float | None


class VersionSummary(TypedDict):
    """A version.

    Attributes:
        id: Its name.
        parent: The version it started from; None is the initial model.
        start: Type of its start.
        stage: `pre-train`, the type of its objective (`instruct`, ...), or that of its start if it is computed.
        origin: What a computed version is made of, in words; None of one that trains.
        fitted: Of a finished merge whose shares were searched for, what that came to; else None.
        left_at_step: Of a branch that leaves before its parent's end, the parent's step; else None.
        status: `finished`, `started` or `waiting`.
        tokens: Tokens it trained on.
        lineage_tokens: The same with those of its ancestors.
        steps: Its steps.
        planned_steps: The steps it is to have.
        schedule: Its schedule, resolved.
        schedule_phases: The phases of that.
        selection: Its selection; None without.
        selected_fraction: Share of tokens that were selected; 1 without selection.
        seconds: Seconds of training.
        tokens_per_second: Mean speed.
        mfu: Mean model FLOP utilisation.
        device: What it trained on.
        device_hours: Seconds of steps times GPUs, or CPU cores, in hours.
        lost_hours: Those of steps that were lost and done again.
        parallel: Its parallel layout.
        kernels: What computed it (attention, linears, fp8, deterministic, versions of packages), from which `step` on; empty
            where no record says.
        ranks: Number of ranks.
        weights_hash: Hash of its weights.
        mixture: Its mixture.
        phases: The phases of that; None before the plan.
        replay: Its shares of replay; None without.
        sources: By domain along its path, tokens in `total`, `consumed`, `remaining`, `repeated`, `replayed`; what remains was
            not read as new data yet, but replay may have brought some of it in.
        evaluation: Its evaluation by domain.
        change: By domain the loss minus that of what it started from; where `left_at_step` is not None, minus what it was
            measured at before its first step.
        cutoff: The date of the newest text on its lineage (`core.records.Cutoff`); None if nothing was recorded.
        command: The command that first prepared it.
    """

    id: str
    parent: str | None
    start: str
    stage: str
    origin: str | None
    fitted: FittedShares | None
    left_at_step: int | None
    status: str
    tokens: int
    lineage_tokens: int | None
    steps: int
    planned_steps: int
    schedule: dict[str, Any]
    schedule_phases: list[SchedulePhase]
    selection: dict[str, Any] | None
    selected_fraction: float | None
    seconds: float | None
    tokens_per_second: float | None
    mfu: float | None
    device: str | None
    device_hours: float | None
    lost_hours: float | None
    parallel: dict[str, Any] | None
    kernels: list[dict[str, Any]]
    ranks: int | None
    weights_hash: str | None
    mixture: list[MixtureMember]
    phases: list[MixturePhase] | None
    replay: ReplayShares | None
    sources: dict[str, dict[str, int]] | None
    evaluation: dict[str, Evaluation] | None
    change: ByDomain
    cutoff: Cutoff | None
    command: str | None
