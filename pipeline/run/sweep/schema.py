"""The types of what `sweep.json` holds; `perdure.pipeline.run.sweep.gather` fills it in."""

from typing import Any, Generic, TypedDict, TypeVar

Number = TypeVar("Number")
"""A number of one run, or its `Spread` over several."""


class Spread(TypedDict):
    """A number over runs that differ in their seed alone.

    Attributes:
        n: Runs that have it.
        mean: Its mean.
        sd: Its standard deviation (n - 1); None for one run.
        min: The lowest.
        max: The highest.
    """

    n: int
    mean: float
    sd: float | None
    min: float
    max: float


class Gap(TypedDict, Generic[Number]):
    """A stability gap on one domain, or on the mean of all.

    Attributes:
        depth: The largest rise of the loss over its start while training.
        recovery_tokens: Tokens until the loss was back; None if it never was.
    """

    depth: Number | None
    recovery_tokens: Number | None


class Gaps(TypedDict, Generic[Number]):
    """The stability gaps of a version: of the mean of all domains, and of each that was learned before."""

    macro: Gap[Number]
    domains: dict[str, Gap[Number]]


class Fuar(TypedDict, Generic[Number]):
    """FUAR with the accuracy that was lost and gained; `value` is None without a gain."""

    value: Number | None
    lost: Number | None
    gained: Number | None


class Losses(TypedDict, Generic[Number]):
    """What is known of a version in one unit of losses; None is not measured.

    Attributes:
        losses: Held-out loss by domain.
        change: By domain, against the version that it started from.
        acc: ACC along its path.
        bwt: BWT along its path.
        forgetting: Mean forgetting along its path.
        stability_gap: Its stability gaps.
    """

    losses: dict[str, Number | None]
    change: dict[str, Number | None]
    acc: Number | None
    bwt: Number | None
    forgetting: Number | None
    stability_gap: Gaps[Number] | None


class Measured(Losses[Number], Generic[Number]):
    """All that is known of a version; losses are in nats per token.

    Attributes:
        in_bits_per_byte: The same losses in bits per byte.
        probes: Accuracy by kind of probe, over all files.
        fuar: FUAR against `parent` and `initial`.
        tokens: Tokens it trained on.
        lineage_tokens: The same with those of its ancestors.
        seconds: Seconds of training.
        tokens_per_second: Mean speed.
        selected_fraction: Share of tokens that selection took.
    """

    in_bits_per_byte: Losses[Number] | None
    probes: dict[str, Number] | None
    fuar: dict[str, Fuar[Number]] | None
    tokens: Number | None
    lineage_tokens: Number | None
    seconds: Number | None
    tokens_per_second: Number | None
    selected_fraction: Number | None


class VersionResult(Measured[float]):
    """A version of a run: its directory in the sweep's, its `status`, and what was measured."""

    directory: str
    status: str


class RunResult(TypedDict):
    """A run of a sweep.

    Attributes:
        name: Its directory's name.
        setting: Its variant and values by field, without the seed.
        seed: Its seed; None if seeds are not swept.
        status: `whole`, `started` or `waiting`.
        error: What is wrong with it; None if nothing is known to be.
        directory: From the sweep's directory.
        versions: Its versions by name.
    """

    name: str
    setting: dict[str, Any]
    seed: int | None
    status: str
    error: str | None
    directory: str
    versions: dict[str, VersionResult]


class Row(Measured[Spread]):
    """A version under one setting, over the runs of all seeds.

    Attributes:
        setting: The setting.
        version: The version's name.
        runs: Names of the runs that measured it.
        planned: How many runs there are to be.
    """

    setting: dict[str, Any]
    version: str
    runs: list[str]
    planned: int


class SweepResult(TypedDict):
    """What `sweep.json` holds.

    Attributes:
        name: The sweep's name.
        recipe: The recipe's file, as asked for.
        over: Values by dotted path, as asked for.
        variants: Named sets of changes, as asked for.
        seeds: Seeds, as asked for.
        domains: Domains of held-out text.
        unit: The unit that losses are shown in first, see `perdure.pipeline.evaluate.units`.
        compared: Versions that the swept fields decide; all of them if only seeds are swept.
        arms: Versions that are plotted side by side; empty where there is a field to plot against.
        runs: Its runs.
        rows: Per setting and compared version, numbers over runs.
    """

    name: str
    recipe: str
    over: dict[str, Any]
    variants: dict[str, Any]
    seeds: list[int]
    domains: list[str]
    unit: str
    compared: list[str]
    arms: list[str]
    runs: list[RunResult]
    rows: list[Row]
